"""Random values that are the same on every machine and Python, each parameter with a stream of its own.

Draw ``i`` of a path is a hash of (seed, path, i): adding a parameter or more draws never changes the others,
and no library's generator, which a release may change, is involved.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normhpc.config.problems import Keys, shown
from normhpc.errors import did_you_mean
from normhpc.sweep.layers import Assignment, assignments, in_order
from normhpc.sweep.paths import Path
from normhpc.sweep.places import Mistakes

DISTRIBUTIONS = ("uniform", "log_uniform", "int", "choice")
"""The words under a path of ``random``."""

_DIGITS = 6
"""Significant digits of a drawn float. ``exp`` and ``log`` of different C libraries differ in the last bits, and the
identity of a run must not; nobody tunes the seventh digit."""


@dataclass(frozen=True)
class Distribution:
    """``kind`` is one of :data:`DISTRIBUTIONS`; ``bounds`` are low and high, or the choices."""

    path: Path
    kind: str
    bounds: tuple[Any, ...]
    origin: Keys

    def draw(self, seed: int, index: int) -> Assignment:
        """Draw number ``index``, from 0."""
        word = _hash64(seed, ".".join(self.path), index)
        if self.kind == "choice":
            at = word * len(self.bounds) >> 64
            return Assignment(self.path, self.bounds[at], (*self.origin, "choice", at))
        low, high = self.bounds
        if self.kind == "int":
            return Assignment(self.path, low + (word * (high - low + 1) >> 64), self.origin)
        share = (word >> 11) / 2**53
        if self.kind == "uniform":
            value = low + share * (high - low)
        else:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        rounded = float(f"{value:.{_DIGITS - 1}e}")
        return Assignment(self.path, min(max(rounded, float(low)), float(high)), self.origin)

    def summary(self) -> str:
        """A few words for a table."""
        return f"{'.'.join(self.path)} {self.kind} {shown(self.bounds)}"


@dataclass(frozen=True)
class Draws(Sequence[list[Assignment]]):
    """The layers that ``random`` declares, computed when asked for."""

    seed: int
    number: int
    distributions: tuple[Distribution, ...]

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.number:
            raise IndexError(index)
        drawn = (distribution.draw(self.seed, index) for distribution in self.distributions)
        return in_order(single for one in drawn for single in assignments(one.value, one.origin, one.path))


def is_distribution(value: Any) -> bool:
    """Whether a mapping under ``random`` is meant as a distribution, and not as nested paths."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in DISTRIBUTIONS


def read_distribution(value: Any, path: Path, origin: Keys, mistakes: Mistakes) -> Distribution | None:
    """The distribution that ``value`` declares for ``path``; what is wrong with it is noted."""
    if not is_distribution(value):
        hint = did_you_mean(next(iter(value), ""), DISTRIBUTIONS) if isinstance(value, dict) and len(value) == 1 else ""
        mistakes.add(origin, f"expected one of {', '.join(DISTRIBUTIONS)} with its values, got {shown(value)}{hint}")
        return None
    ((kind, bounds),) = value.items()
    wrong = _wrong_choices(bounds) if kind == "choice" else _wrong_range(kind, bounds)
    if wrong:
        mistakes.add((*origin, kind), f"{wrong}, got {shown(bounds)}")
        return None
    return Distribution(path, kind, tuple(bounds), origin)


def _wrong_choices(choices: Any) -> str | None:
    return None if isinstance(choices, list) and choices else "expected a list of choices"


def _wrong_range(kind: str, bounds: Any) -> str | None:
    types = int if kind == "int" else int | float
    noun = "integers" if kind == "int" else "numbers"
    if (
        not isinstance(bounds, list)
        or len(bounds) != 2
        or any(isinstance(bound, bool) or not isinstance(bound, types) for bound in bounds)
    ):
        return f"expected a list of two {noun}, lowest and highest"
    if not all(abs(bound) < (2**63 if kind == "int" else math.inf) for bound in bounds):
        return f"expected two finite {noun}"
    if kind != "int" and not math.isfinite(float(bounds[1]) - float(bounds[0])):
        return "expected a range that a float can hold"
    if kind == "log_uniform" and bounds[0] <= 0:
        return "expected positive numbers, their logarithm is drawn from"
    return None if bounds[0] < bounds[1] else "expected the lowest value first and the highest second"


def _hash64(seed: int, path: str, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{path}/{index}".encode(), digest_size=8).digest(), "big")
