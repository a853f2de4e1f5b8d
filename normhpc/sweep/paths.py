"""The dotted paths a sweep can name: the fields of every configuration there is, and of the resources."""

import re
from dataclasses import dataclass, field
from functools import cache, lru_cache

from normhpc.config import Resources, RunConfig
from normhpc.config.base import OneOf, Part, name_pattern
from normhpc.config.identity import fields_outside_identity
from normhpc.config.problems import kinds_of, unknown_key

Path = tuple[str, ...]
"""Keys from the top of a configuration to a field: ``("optim", "lr")``."""


@dataclass
class Node:
    """What stands at a path in some configuration: a part chosen by name, a fixed part, or a plain value."""

    named: OneOf | None = None
    kinds: tuple[type[Part], ...] = ()
    outside_identity: bool = False
    children: dict[str, "Node"] = field(default_factory=dict)

    def kinds_called(self, name: str) -> tuple[type[Part], ...]:
        """The kinds that ``name`` chooses: one, or none when there is no such name."""
        return tuple(kind for kind in self.kinds if re.fullmatch(name_pattern(kind), name))


@cache
def tree() -> Node:
    """The root of all paths."""
    root = _node_of_kinds((RunConfig,))
    root.children["resources"] = _node_of_kinds((Resources,))
    return root


@lru_cache(maxsize=10_000)
def node_at(path: Path) -> Node | None:
    """What stands at ``path`` in some configuration, None when none has it."""
    node: Node | None = tree()
    for step in path:
        node = node.children.get(step) if node is not None else None
    return node


def unknown_step(path: Path, names: dict[Path, object] | None = None) -> str | None:
    """What is wrong with the first key of ``path`` that no configuration has; None when all are known.

    ``names`` tells which kind was asked for at a path, to list the keys of that kind alone.
    """
    node = tree()
    for depth, step in enumerate(path):
        if step not in node.children:
            if not node.children:
                return f"{'.'.join(path[:depth])} is a single value and has no key {step!r}"
            name = str((names or {}).get(path[:depth]))
            kinds = (node.named and node.kinds_called(name)) or node.kinds
            own = {key: None for kind in kinds for key in kind.model_fields}
            return unknown_key(step, list(own) if depth else list(node.children))
        node = node.children[step]
    return None


def _node_of_kinds(kinds: tuple[type[Part], ...], named: OneOf | None = None) -> Node:
    node = Node(named, kinds)
    for kind in kinds:
        for name, info in kind.model_fields.items():
            marker = next((item for item in info.metadata if isinstance(item, OneOf)), None)
            child = node.children.setdefault(name, _node_of_kinds(kinds_of(info), marker))
            child.outside_identity |= name in fields_outside_identity(kind)
    return node
