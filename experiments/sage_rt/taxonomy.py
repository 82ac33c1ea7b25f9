"""Policies as a tree of three levels: macro-categories, sub-categories, leaves.

``toyland`` is made up and harmless; ``alert`` has the names of ALERT's 6 and 32 categories (Tedeschi et al.
2024, arXiv:2404.08676), without leaves; a file of your own is JSON::

    {"name": "...", "policy": "what a model has to decline, in a sentence",
     "nodes": [{"id": "a", "name": "..."}, {"id": "a1", "name": "...", "parent": "a"}, ...]}
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from diffax.checks import require

LEVELS = ("macro", "sub", "leaf")
_BUNDLED = Path(__file__).parent / "taxonomies"


class Node(NamedTuple):
    """A category; ``parent`` is "" at the top."""

    id: str
    name: str
    parent: str = ""


class Taxonomy:
    """A checked tree. ``policy`` says in a sentence what a model has to decline.

    Raises ValueError naming the node for an id that repeats (letters' case apart), a parent that is not
    there, a circle, siblings of one name, or a fourth level.
    """

    def __init__(self, name: str, nodes: Sequence[Node], policy: str) -> None:
        self.name, self.policy = name, policy
        require(len(nodes) > 0, "taxonomy.nodes", 0, "one or more")
        self._nodes = {node.id: node for node in nodes}
        _check_names(nodes)
        for node in nodes:
            self._check_place(node)

    def __getitem__(self, node: str) -> Node:
        return self._nodes[node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def path(self, node: str) -> tuple[str, ...]:
        """Ids from the top down to the node."""
        found = [node]
        while self._nodes[found[-1]].parent:
            found.append(self._nodes[found[-1]].parent)
        return tuple(reversed(found))

    def names(self, node: str) -> tuple[str, ...]:
        """Names from the top down to the node."""
        return tuple(self._nodes[one].name for one in self.path(node))

    def level(self, node: str) -> str:
        """ "macro", "sub" or "leaf"."""
        return LEVELS[len(self.path(node)) - 1]

    def above(self, node: str, level: str) -> str:
        """The node's category at a level; itself where it is not as deep."""
        path = self.path(node)
        return path[min(LEVELS.index(level), len(path) - 1)]

    @cached_property
    def targets(self) -> tuple[Node, ...]:
        """Nodes without children: what prompts are made for."""
        parents = {node.parent for node in self}
        return tuple(node for node in self if node.id not in parents)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many nodes each level has."""
        found = dict.fromkeys(LEVELS, 0)
        for node in self:
            found[self.level(node.id)] += 1
        return found

    def _check_place(self, node: Node) -> None:
        seen = [node.id]
        while above := self._nodes[seen[-1]].parent:
            require(above in self._nodes, f"taxonomy node {seen[-1]!r}: parent", above, "a node's id")
            require(above not in seen, f"taxonomy node {node.id!r}: parent", above, "no circle")
            seen.append(above)
        require(len(seen) <= len(LEVELS), f"taxonomy node {node.id!r}: level", len(seen), "at most 3")


def load_taxonomy(name: str) -> Taxonomy:
    """``toyland``, ``alert``, or a JSON file. Raises ValueError naming the file and what is wrong."""
    if name == "toyland":
        from experiments.sage_rt.toyland import taxonomy

        return taxonomy()
    file = _BUNDLED / "alert.json" if name == "alert" else Path(name)
    require(file.is_file(), "taxonomy", name, '"toyland", "alert", or a JSON file')
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"taxonomy: got {file} ({error}), allowed: JSON") from error
    require(isinstance(content, dict), f"{file}", type(content).__name__, "a JSON object")
    nodes = content.get("nodes")
    require(isinstance(nodes, list), f"{file}: nodes", type(nodes).__name__, "a list of objects")
    policy = content.get("policy")
    require(isinstance(policy, str) and bool(policy), f"{file}: policy", policy, "a sentence")
    return Taxonomy(str(content.get("name", file.stem)), [_node(file, row) for row in nodes], policy)


def _node(file: Path, row: Mapping[str, Any]) -> Node:
    require(isinstance(row, dict), f"{file}: nodes", row, 'objects {"id", "name", "parent"}')
    unknown = sorted(set(row) - set(Node._fields))
    require(not unknown, f"{file}: nodes", unknown, f"the fields {Node._fields}")
    values = {key: "" if value is None else value for key, value in row.items()}
    for key in ("id", "name"):
        value = values.get(key)
        require(isinstance(value, str) and bool(value.strip()), f"{file}: node {row}: {key}", value, "a text")
    require(isinstance(values.get("parent", ""), str), f"{file}: node {row}: parent", row, "an id, or none")
    return Node(**values)


def _check_names(nodes: Sequence[Node]) -> None:
    ids: dict[str, str] = {}
    siblings: dict[tuple[str, str], str] = {}
    for node in nodes:
        other = ids.setdefault(node.id.casefold(), node.id)
        repeated = sum(one.id == node.id for one in nodes) > 1 if other == node.id else True
        require(not repeated, f"taxonomy node {node.id!r}: id", node.id, f"not that of another ({other!r})")
        first = siblings.setdefault((node.parent, node.name.casefold()), node.id)
        require(first == node.id, f"taxonomy node {node.id!r}: name", node.name, f"not that of {first!r}")
