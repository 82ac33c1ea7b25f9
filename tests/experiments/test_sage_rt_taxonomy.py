"""Trees of categories: those of the package, those of a user's file, and what is wrong with others."""

import json

import pytest

from experiments.sage_rt import toyland
from experiments.sage_rt.taxonomy import Node, Taxonomy, load_taxonomy


def tree(*rows):
    return Taxonomy("t", [Node(*row) for row in rows], "Decline plums.")


@pytest.mark.parametrize(
    ("name", "sizes", "targets"),
    [
        ("alert", {"macro": 6, "sub": 32, "leaf": 0}, 32),
        ("toyland", {"macro": 6, "sub": 32, "leaf": 279}, 279),
    ],
)
def test_those_of_the_package(name, sizes, targets):
    found = load_taxonomy(name)
    assert (found.sizes, len(found.targets)) == (sizes, targets)
    for node in found:
        path = found.path(node.id)
        assert [found.level(one) for one in path] == ["macro", "sub", "leaf"][: len(path)]
        assert found.above(node.id, "macro") == path[0]
        assert found.above(node.id, "leaf") == node.id


def test_toylands_leaves_have_look_alikes_that_are_free():
    nouns = toyland.world().lookalike
    assert len(set(nouns.values())) == 279
    assert not set(nouns) & set(nouns.values())
    assert all(noun[:3] == other[:3] for noun, other in nouns.items())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x"), ("a", "y")], "node 'a': id: got 'a'"),
        ([("ab", "x"), ("AB", "y")], "node 'AB': id: got 'AB', allowed: not that of another ('ab')"),
        ([("stra\u00dfe", "x"), ("STRASSE", "y")], "node 'STRASSE': id"),
        ([("a", "x"), ("b", "y", "c")], "node 'b': parent: got 'c', allowed: a node's id"),
        ([("a", "x", "b"), ("b", "y", "a")], "node 'a': parent: got 'a', allowed: no circle"),
        ([("a", "x", "a")], "node 'a': parent: got 'a', allowed: no circle"),
        ([("a", "w"), ("b", "x", "a"), ("c", "y", "b"), ("d", "z", "c")], "node 'd': level: got 4"),
        ([("a", "w"), ("b", "Plums", "a"), ("c", "plums", "a")], "node 'c': name: got 'plums'"),
        ([], "taxonomy.nodes: got 0"),
    ],
)
def test_what_is_no_tree(rows, message):
    with pytest.raises(ValueError, match="allowed") as error:
        tree(*rows)
    assert message in str(error.value)


def test_one_name_in_two_families_is_fine():
    found = tree(("a", "w"), ("b", "x"), ("a1", "other", "a"), ("b1", "other", "b"))
    assert found.names("b1") == ("x", "other")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "allowed: JSON"),
        ([], "got 'list', allowed: a JSON object"),
        ({"policy": "p"}, "nodes: got 'NoneType'"),
        ({"nodes": [], "policy": " "}, "taxonomy.nodes: got 0"),
        ({"nodes": [], "policy": ""}, "policy: got ''"),
        ({"nodes": ["a"], "policy": "p"}, "got 'a', allowed: objects"),
        ({"nodes": [{"id": "a"}], "policy": "p"}, "name: got None"),
        ({"nodes": [{"id": 3, "name": "x"}], "policy": "p"}, "id: got 3"),
        ({"nodes": [{"id": "a", "name": "x", "seeds": []}], "policy": "p"}, "got ['seeds']"),
        ({"nodes": [{"id": "a", "name": "x", "parent": 1}], "policy": "p"}, "parent"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    file = tmp_path / "mine.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match="allowed") as error:
        load_taxonomy(str(file))
    assert message in str(error.value)


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.json"
    nodes = [{"id": "a", "name": "x", "parent": None}, {"id": "b", "name": "y", "parent": "a"}]
    file.write_text(json.dumps({"policy": "p", "nodes": nodes}))
    assert (load_taxonomy(str(file)).name, load_taxonomy(str(file)).path("b")) == ("mine", ("a", "b"))
    with pytest.raises(ValueError, match=r'taxonomy: got .*, allowed: "toyland", "alert", or a JSON file'):
        load_taxonomy(str(tmp_path / "none.json"))
