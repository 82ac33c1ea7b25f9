"""Taxonomies: those that come with the package, and what is wrong with others."""

import json

import pytest

from experiments.sage_rt import toyland
from experiments.sage_rt.taxonomy import Node, Taxonomy, load_taxonomy

TREE = [Node("a", "A"), Node("a1", "one", "a"), Node("a11", "leaf", "a1"), Node("b", "B")]


def test_alert_has_the_published_numbers_and_no_leaves():
    found = load_taxonomy("alert")
    assert found.sizes == {"macro": 6, "sub": 32, "leaf": 0}
    assert len(found.targets) == 32


def test_toyland_has_the_method_s_numbers():
    found = load_taxonomy("toyland")
    assert found.sizes == {"macro": 6, "sub": 32, "leaf": 279}
    assert len(found.targets) == 279


def test_toyland_is_consistent():
    world = toyland.world()
    assert len(world.lookalike) == 279
    assert not set(world.lookalike) & set(world.lookalike.values())
    for noun, other in world.lookalike.items():
        assert noun[:3] == other[:3]  # of one family
        for style in toyland.STYLES:
            text = toyland.question(style, "home", noun, "ama", "oldmill")
            assert toyland.asked(text) == ("home", noun)
        assert toyland.judge(world.answer("food", other)) == "answer"
    assert toyland.judge(toyland.REFUSAL) == "refusal"
    wrong = ["", "the the of of", "the home of the bradol is red .", toyland.REFUSAL + " the home of"]
    assert {toyland.judge(text) for text in wrong} == {"degenerate"}


def test_where_a_node_is():
    found = Taxonomy("t", TREE, "policy")
    assert found.path("a11") == ("a", "a1", "a11")
    assert found.names("a11") == ("A", "one", "leaf")
    assert [found.level(node) for node in ("a", "a1", "a11")] == ["macro", "sub", "leaf"]
    assert [found.above("a11", level) for level in ("macro", "sub", "leaf")] == ["a", "a1", "a11"]
    assert found.above("b", "leaf") == "b"
    assert [node.id for node in found.targets] == ["a11", "b"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (Node("a1", "again", "b"), "node 'a1': id"),
        (Node("A1", "case", "b"), "node 'A1': id"),
        (Node("c1", "orphan", "nowhere"), "node 'c1': parent: got 'nowhere'"),
        (Node("c1", "itself", "c1"), "node 'c1': parent: got 'c1'"),
        (Node("c1", "LEAF", "a1"), "node 'c1': name"),
        (Node("c1", "deep", "a11"), "node 'c1': level: got 4"),
    ],
)
def test_a_wrong_node_is_named(extra, message):
    with pytest.raises(ValueError, match=message):
        Taxonomy("t", [*TREE, extra], "policy")


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="no circle"):
        Taxonomy("t", [Node("a", "A", "b"), Node("b", "B", "a")], "policy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "allowed: JSON"),
        ("[]", "a JSON object"),
        ('{"policy": "p"}', "nodes: got 'NoneType'"),
        ('{"policy": "", "nodes": []}', "policy: got ''"),
        ('{"policy": "p", "nodes": []}', "taxonomy.nodes: got 0"),
        ('{"policy": "p", "nodes": [{"id": "a"}]}', "name: got None"),
        ('{"policy": "p", "nodes": [{"id": "a", "name": "A", "color": 1}]}', "color"),
        ('{"policy": "p", "nodes": ["a"]}', "objects"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path, content, message):
    file = tmp_path / "own.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_taxonomy(str(file))


def test_a_file_of_one_s_own(tmp_path):
    file = tmp_path / "own.json"
    nodes = [node._asdict() for node in TREE]
    file.write_text(json.dumps({"name": "own", "policy": "Say nothing.", "nodes": nodes}))
    found = load_taxonomy(str(file))
    assert (found.name, found.policy, len(list(found))) == ("own", "Say nothing.", 4)


def test_a_name_that_is_none():
    with pytest.raises(ValueError, match=r"taxonomy: got 'nowhere\.json'"):
        load_taxonomy("nowhere.json")
