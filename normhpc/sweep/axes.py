"""The axes of a sweep: lists of layers, one of which every combination takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from normhpc.config.problems import Keys, shown
from normhpc.sweep.layers import Assignment, assignments, clashes, in_order, known
from normhpc.sweep.paths import Path, unknown_step
from normhpc.sweep.places import Mistakes
from normhpc.sweep.sampling import Distribution, Draws, is_distribution, read_distribution

_MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class Axis:
    """``layers`` holds one layer per value.

    ``columns`` are the paths that advance together, each with every assignment that any of its values makes.
    """

    label: str
    summary: str
    layers: Sequence[list[Assignment]]
    columns: dict[Path, list[Assignment]]

    @property
    def fields(self) -> set[str]:
        """The top-level fields that this axis touches."""
        return {path[0] for path in self.columns}


@dataclass(frozen=True)
class Column:
    """The values declared for one path, each as a layer, and where they are."""

    path: Path
    values: list[Any]
    layers: list[list[Assignment]]
    origin: Keys

    @property
    def label(self) -> str:
        """The dotted path."""
        return ".".join(self.path)

    @property
    def singles(self) -> list[Assignment]:
        """Every assignment of every value."""
        return [assignment for layer in self.layers for assignment in layer]


def read_columns(value: Any, origin: Keys, mistakes: Mistakes, path: Path = ()) -> Iterator[Column]:
    """The lists of values under a mapping of paths, dotted or nested; what is wrong is noted and left out."""
    if not isinstance(value, dict) or not value:
        mistakes.add(origin, f"expected paths, each with a list of values, got {shown(value)}")
        return
    for key, item in value.items():
        here, steps = (*origin, key), (*path, *key.split("."))
        message = unknown_step(steps)
        if message is not None:
            mistakes.add(here, message, at_key=True)
        elif isinstance(item, dict) and item:
            yield from read_columns(item, here, mistakes, steps)
        elif not isinstance(item, list):
            mistakes.add(here, f"expected a list of values, got {shown(item)}; write [{_brief(item)}]")
        elif not item:
            mistakes.add(here, "expected at least one value, got an empty list")
        else:
            layers = [_value_layer(one, steps, (*here, at), mistakes) for at, one in enumerate(item)]
            yield Column(steps, item, layers, here)


def matrix_axes(columns: list[Column]) -> list[Axis]:
    """One axis for each column."""
    return [
        Axis(column.label, _cut(map(_brief, column.values)), column.layers, {column.path: column.singles})
        for column in columns
    ]


def zip_axis(columns: list[Column], origin: Keys, mistakes: Mistakes) -> Axis | None:
    """The columns of one group side by side; None, and noted, when their lengths differ."""
    if len({len(column.layers) for column in columns}) > 1:
        lengths = ", ".join(f"{column.label} has {len(column.layers)}" for column in columns)
        mistakes.add(origin, f"lists that advance together must be equally long: {lengths}")
        return None
    rows = zip(*(column.layers for column in columns), strict=True)
    layers = [in_order(assignment for layer in row for assignment in layer) for row in rows]
    values = zip(*(column.values for column in columns), strict=True)
    summary = _cut(" with ".join(map(_brief, row)) for row in values)
    label = " + ".join(column.label for column in columns)
    return Axis(label, summary, layers, {column.path: column.singles for column in columns})


def read_random(value: Any, origin: Keys, fixed: Callable[[Path], bool], mistakes: Mistakes) -> Axis | None:
    """The axis of the section ``random``, less the paths for which ``fixed`` holds; what is wrong with it is noted."""
    if not isinstance(value, dict):
        mistakes.add(origin, f"expected draws and paths with distributions, got {shown(value)}")
        return None
    draws, seed = value.get("draws"), value.get("seed", 0)
    if isinstance(draws, bool) or not isinstance(draws, int) or not 1 <= draws <= _MOST_DRAWS:
        wanted = f"a positive integer up to {_MOST_DRAWS:,}"
        if "draws" in value:
            mistakes.add((*origin, "draws"), f"expected {wanted}, got {shown(draws)}")
        else:
            mistakes.add(origin, f"draws is missing, {wanted}")
        draws = 1
    if isinstance(seed, bool) or not isinstance(seed, int):
        mistakes.add((*origin, "seed"), f"expected an integer, got {shown(seed)}")
        seed = 0
    paths = {key: item for key, item in value.items() if key not in ("draws", "seed")}
    if not paths:
        mistakes.add(
            origin, "expected at least one path with a distribution, such as optim.lr: {log_uniform: [1e-3, 1]}"
        )
        return None
    drawn = tuple(one for one in _distributions(paths, origin, (), mistakes) if not fixed(one.path))
    if not drawn:
        return None
    columns = {one.path: _possible(one, mistakes) for one in drawn}
    summary = _cut(one.summary() for one in drawn)
    return Axis("random", summary, Draws(seed, draws, drawn), columns)


def _distributions(value: dict[str, Any], origin: Keys, path: Path, mistakes: Mistakes) -> Iterator[Distribution]:
    for key, item in value.items():
        here, steps = (*origin, key), (*path, *key.split("."))
        message = unknown_step(steps)
        if message is not None:
            mistakes.add(here, message, at_key=True)
        elif (
            isinstance(item, dict)
            and item
            and not is_distribution(item)
            and unknown_step((*steps, next(iter(item)))) is None
        ):
            yield from _distributions(item, here, steps, mistakes)
        elif (one := read_distribution(item, steps, here, mistakes)) is not None:
            yield one


def _possible(one: Distribution, mistakes: Mistakes) -> list[Assignment]:
    if one.kind != "choice":
        return [Assignment(one.path, None, one.origin)]
    layers = (_value_layer(item, one.path, (*one.origin, "choice", at), mistakes) for at, item in enumerate(one.bounds))
    return [assignment for layer in layers for assignment in layer]


def _value_layer(value: Any, path: Path, origin: Keys, mistakes: Mistakes) -> list[Assignment]:
    layer = known(assignments(value, origin, path), mistakes)
    for _, second in clashes([layer]):
        mistakes.add(second.origin, f"sets {'.'.join(second.path)} again", at_key=True)
    return in_order(layer)


def _brief(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        rest = ", ".join(f"{key}={_brief(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']}({rest})" if rest else str(value["name"])
    return shown(value)


def _cut(words: Any) -> str:
    text = ""
    for word in words:
        text = f"{text}, {word}" if text else word
        if len(text) > 80:
            return text[:77] + "..."
    return text
