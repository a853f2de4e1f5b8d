"""What the command line changes about a sweep: ``--set KEY=VALUE`` and ``--only KEY=VALUE``."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from normhpc.config.problems import unknown_key
from normhpc.errors import InputError, Problem
from normhpc.sweep.layers import Assignment, assignments, clashes, in_order, known
from normhpc.sweep.matching import Condition, read_condition
from normhpc.sweep.paths import Path, tree
from normhpc.sweep.places import Mistakes
from normhpc.sweep.yaml12 import parse_scalar

_SECTIONS = ("name", "description", "seeds")


@dataclass
class Overrides:
    """``sections`` replace those of the file; ``layer`` is put on top of every run."""

    sections: dict[str, Any] = field(default_factory=dict)
    layer: list[Assignment] = field(default_factory=list)

    def fixes(self, path: Path) -> bool:
        """Whether every value of an axis at ``path`` is overridden."""
        return self.fixing(path) is not None

    def fixing(self, path: Path) -> Assignment | None:
        """What overrides every value of an axis at ``path``; None where nothing does."""
        for assignment in self.layer:
            covered = assignment.path[:-1] if assignment.starts_part else assignment.path
            if path[: len(covered)] == covered or path == assignment.path:
                return assignment
        return None


@dataclass
class Filter:
    """Which expanded runs ``--only`` keeps: those for which all ``conditions`` hold, and those on the seed alone, and
    whose id has one of the prefixes of every list."""

    conditions: list[Condition] = field(default_factory=list)
    seeds: list[Condition] = field(default_factory=list)
    run_ids: list[tuple[str, ...]] = field(default_factory=list)


def read_overrides(texts: Iterable[str], mistakes: Mistakes, *, has_seeds: bool) -> Overrides:
    """The meaning of every ``--set``; what is wrong is noted.

    Where the sweep gives ``seeds``, ``seed=3`` replaces them, as a path replaces an axis of the same path.
    """
    overrides = Overrides()
    found: list[Assignment] = []
    for text in texts:
        key, value = _key_and_value("--set", text, mistakes)
        if key == "seed" and has_seeds:
            key, value = "seeds", [value]
        if key in _SECTIONS:
            overrides.sections[key] = value
        elif key.split(".")[0] not in tree().children:
            mistakes.add(("--set", key), unknown_key(key.split(".")[0], [*tree().children, *_SECTIONS]))
        else:
            found += assignments(value, ("--set", key), tuple(key.split(".")))
    found = known(found, mistakes)
    for _, second in clashes([found]):
        mistakes.add(second.origin, f"sets {'.'.join(second.path)} again")
    overrides.layer = in_order(found)
    return overrides


def read_filter(texts: Iterable[str], mistakes: Mistakes) -> Filter:
    """The meaning of every ``--only``; what is wrong is noted."""
    kept = Filter()
    for text in texts:
        key, raw = _split("--only", text, mistakes)
        if key == "run_id":
            kept.run_ids.append(tuple(raw.split(",")))
            continue
        value = _parsed("--only", key, raw, mistakes)
        several = isinstance(value, str) and "," in value
        choices = [_parsed("--only", key, each, mistakes) for each in raw.split(",")] if several else []
        condition = read_condition({key: {"in": choices} if several else value}, ("--only",), mistakes)
        if condition is not None:
            (kept.seeds if key == "seed" else kept.conditions).append(condition)
    return kept


def _key_and_value(option: str, text: str, mistakes: Mistakes) -> tuple[str, Any]:
    key, raw = _split(option, text, mistakes)
    return key, _parsed(option, key, raw, mistakes)


def _split(option: str, text: str, mistakes: Mistakes) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        mistakes.add((option, text), "expected KEY=VALUE, such as optim.lr=0.1")
        raise InputError(Problem("expected KEY=VALUE, such as optim.lr=0.1", f"{option} {text}"))
    return key.strip(), value


def _parsed(option: str, key: str, text: str, mistakes: Mistakes) -> Any:
    try:
        return parse_scalar(text)
    except InputError as error:
        mistakes.add((option, key), error.problems[0].message)
        return None
