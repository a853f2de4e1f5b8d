"""One layer of a sweep: values at dotted paths, put on top of what earlier layers left.

Nested mappings and dotted paths are the same thing: both become assignments to single paths. The name of a
part starts the part anew; everything else changes one field and leaves its neighbours.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from normhpc.config.problems import Keys, shown
from normhpc.sweep.paths import Path, node_at, unknown_step
from normhpc.sweep.places import Mistakes, written


@dataclass(frozen=True, slots=True)
class Assignment:
    """``value`` for the configuration's ``path``, and where the sweep file says so."""

    path: Path
    value: Any
    origin: Keys

    @property
    def starts_part(self) -> bool:
        """Whether this names a part, and so replaces whatever part was there."""
        parent = node_at(self.path[:-1])
        return self.path[-1] == "name" and parent is not None and parent.named is not None

    @property
    def depth(self) -> int:
        """Shallow assignments come before deeper ones; a part's name counts as the part itself."""
        return len(self.path) - self.starts_part


@dataclass
class Raw:
    """What the layers so far say about one top-level field, not yet validated.

    ``tree`` is empty or holds the field's name alone; ``origins`` tells where each value in it came from.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Keys] = field(default_factory=dict)

    def under(self, layer: Iterable[Assignment]) -> "Raw":
        """A new :class:`Raw` with ``layer``, which is in order, on top of this one."""
        raw = Raw(_copied(self.tree), dict(self.origins))
        for assignment in layer:
            raw._assign(assignment)
        return raw

    def origin_of(self, path: Path) -> tuple[Keys, Path]:
        """Where ``path``, or the nearest part around it, was set, and what of ``path`` lies below that place.

        Where only fields inside ``path`` were set it is the first of them; where nothing was, the origin is empty.
        """
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]], path[end:]
        below = (origin for at, origin in self.origins.items() if at[: len(path)] == path)
        return next(below, ()), ()

    def _assign(self, assignment: Assignment) -> None:
        path, value, origin = assignment.path, assignment.value, assignment.origin
        if assignment.starts_part:
            self._replace(path[:-1], {"name": value}, origin[:-1] if origin[-1] == "name" else origin)
            self.origins[path] = origin
        elif value != {} or not self._has(path):
            self._replace(path, _copied(value), origin)

    def _replace(self, path: Path, value: Any, origin: Keys) -> None:
        here = self.tree
        for step in path[:-1]:
            if not isinstance(here.get(step), dict):
                here[step] = {}
            here = here[step]
        here[path[-1]] = value
        for old in [old for old in self.origins if old[: len(path)] == path]:
            del self.origins[old]
        self.origins[path] = origin

    def _has(self, path: Path) -> bool:
        here: Any = self.tree
        for step in path:
            if not isinstance(here, dict) or step not in here:
                return False
            here = here[step]
        return True


def assignments(value: Any, origin: Keys, path: Path = ()) -> Iterator[Assignment]:
    """The single assignments that ``value`` at ``path`` stands for."""
    node = node_at(path)
    if isinstance(value, dict) and (value or not path) and node is not None and node.children:
        for key, item in value.items():
            yield from assignments(item, (*origin, key), (*path, *key.split(".")))
    elif node is not None and node.named and isinstance(value, str):
        yield Assignment((*path, "name"), value, origin)
    else:
        yield Assignment(path, value, origin)


def in_order(layer: Iterable[Assignment]) -> list[Assignment]:
    """``layer`` with shallow paths before deeper ones, so that the order of keys in a file never matters."""
    return sorted(layer, key=lambda assignment: (assignment.depth, assignment.path))


def read_layer(value: Any, origin: Keys, mistakes: Mistakes) -> list[Assignment]:
    """The layer that the mapping ``value`` declares, in order; unknown paths and repetitions are noted and left out."""
    if not isinstance(value, dict):
        mistakes.add(origin, f"expected a mapping of paths to values, got {shown(value)}")
        return []
    layer = known(assignments(value, origin), mistakes)
    for first, second in clashes([layer]):
        mistakes.add(second.origin, f"sets {'.'.join(second.path)} again, after {written(first.origin)}", at_key=True)
    return in_order(layer)


def known(layer: Iterable[Assignment], mistakes: Mistakes) -> list[Assignment]:
    """The assignments of ``layer`` whose paths exist; the others are noted."""
    layer = list(layer)
    names = {assignment.path[:-1]: assignment.value for assignment in layer if assignment.starts_part}
    kept = []
    for assignment in layer:
        message = unknown_step(assignment.path, names)
        if message is None:
            kept.append(assignment)
        else:
            mistakes.add(assignment.origin, message, at_key=True)
    return kept


def clashes(groups: Sequence[Sequence[Assignment]]) -> Iterator[tuple[Assignment, Assignment]]:
    """Pairs that set the same leaf: from different groups, or, for a single group, from within it."""
    seen: dict[Path, tuple[int, Assignment]] = {}
    alone = len(groups) == 1
    for number, group in enumerate(groups):
        for assignment in sorted(group, key=lambda item: len(item.path)):
            prefixes = (assignment.path[:end] for end in range(1, len(assignment.path) + 1))
            before = next((seen[prefix] for prefix in prefixes if prefix in seen), None)
            if before is not None and (alone or before[0] != number):
                yield before[1], assignment
            elif assignment.value != {}:
                seen.setdefault(assignment.path, (number, assignment))


def by_field(layer: Iterable[Assignment]) -> dict[str, list[Assignment]]:
    """``layer`` split by top-level field, the order kept."""
    fields: dict[str, list[Assignment]] = {}
    for assignment in layer:
        fields.setdefault(assignment.path[0], []).append(assignment)
    return fields


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value
