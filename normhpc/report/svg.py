"""Drawings as SVG inside a page: axes with ticks, lines, bands and points, in colours that style sheets set."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normhpc.report.elements import escaped

COLOURS = 7
"""Colours for series (Okabe and Ito's without yellow, which white paper swallows); further series are dashed."""

WIDTH, HEIGHT = 370, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 28, 42
_MOST_TICKS = 6
_LETTER, _LINE = 6.5, 12
"""Width and height of a letter, about."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows, from ``low`` to ``high``, evenly or by the logarithm."""

    title: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Only whole numbers mean something."""

    def share(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where ``values`` lie between the ends, 0 to 1; NaN stays NaN."""
        given = np.asarray(values, np.float64)
        if self.log:
            return np.asarray(np.log(given / self.low) / math.log(self.high / self.low), np.float64)
        return np.asarray((given - self.low) / (self.high - self.low), np.float64)

    def ticks(self) -> list[float]:
        """Round numbers between the ends."""
        if not self.log:
            return even_ticks(self.low, self.high, least=1.0 if self.whole else 0.0)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            found = [step * 10.0**decade for decade in decades for step in steps]
            found = [tick for tick in found if self.low <= tick <= self.high]
            if len(found) >= 3:
                return found
        return even_ticks(self.low, self.high)


def axis_over(title: str, values: Iterable[float], *, log: bool = False) -> Axis:
    """An axis that holds all finite ``values`` with a little room."""
    given = np.array([value for value in values if math.isfinite(value) and (value > 0 or not log)])
    low, high = (float(given.min()), float(given.max())) if len(given) else (0.0, 1.0)
    if low == high:
        room = abs(low) * 0.05 or 0.5
        low, high = (low / 1.1, high * 1.1) if log else (low - room, high + room)
    else:
        room = 0.04
        if log:
            factor = (high / low) ** room
            low, high = low / factor, high * factor
        else:
            low, high = low - room * (high - low), high + room * (high - low)
    return Axis(title, low, high, log)


def even_ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, and of ``least``, from ``low`` to ``high``, six at most."""
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(
        factor * power
        for factor in (1, 2, 2.5, 5, 10, 20, 50, 100)
        if (not least or (factor * power) % least == 0)
        and math.floor(high / (factor * power)) - math.ceil(low / (factor * power)) < _MOST_TICKS
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """``value`` in few letters."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-4):
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{round(value, 10):g}"


class Plot:
    """A drawing with two axes; what is added later lies over what was added before.

    ``series`` is the number of a method: its colour, its dashes, and what a reader switches on and off.
    """

    def __init__(self, title: str, x: Axis, y: Axis, *, says: str = "") -> None:
        self.x, self.y = x, y
        self._title, self._says = title, says
        self._marks: list[str] = []
        self._taken: list[tuple[float, float, float, float]] = []

    def at(self, xs: ArrayLike, ys: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values as places in the drawing."""
        right, down = self.x.share(xs), self.y.share(ys)
        return _LEFT + right * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - down * (HEIGHT - _TOP - _BOTTOM)

    def line(self, series: int, xs: ArrayLike, ys: ArrayLike, *, kind: str = "line", steps: bool = False) -> None:
        """A line through (n,) points, broken where one is NaN; ``steps`` keeps each value until the next."""
        places = zip(*self.at(xs, ys), strict=True)
        self._marks.append(f'<path class="{kind} {paint(series)}" data-s="{series}" d="{path(places, steps=steps)}"/>')

    def reference(self, xs: ArrayLike, ys: ArrayLike) -> None:
        """A dashed line through (n,) points that belongs to no series."""
        self._marks.append(f'<path class="front" d="{path(zip(*self.at(xs, ys), strict=True))}"/>')

    def band(self, series: int, xs: ArrayLike, low: ArrayLike, high: ArrayLike) -> None:
        """The area between two lines; points at which one is NaN are left out."""
        at, lows = self.at(xs, low)
        _, highs = self.at(xs, high)
        there = np.isfinite(lows) & np.isfinite(highs)
        edge = [*zip(at[there], highs[there], strict=True), *zip(at[there][::-1], lows[there][::-1], strict=True)]
        if edge:
            self._marks.append(f'<path class="band {paint(series)}" data-s="{series}" d="{path(edge)}z"/>')

    def dot(self, series: int, x: float, y: float, tip: str, *, kind: str = "dot") -> None:
        """A point that says ``tip`` when it is pointed at."""
        across, down = self.at([x], [y])
        if math.isfinite(across[0]) and math.isfinite(down[0]):
            self._marks.append(
                f'<circle class="{kind} {paint(series)}" data-s="{series}" cx="{across[0]:.1f}" cy="{down[0]:.1f}" r="4">'
                f"<title>{escaped(tip)}</title></circle>"
            )

    def whisker(self, series: int, x: float, low: float, high: float) -> None:
        """A vertical line from ``low`` to ``high``."""
        self.line(series, [x, x], [low, high], kind="whisker")

    def word(self, series: int, x: float, y: float, text: str) -> None:
        """``text`` beside a point, on the first side on which it meets no other words; none where there is no room."""
        (across,), (down,) = self.at([x], [y])
        if not (math.isfinite(across) and math.isfinite(down)):
            return
        width = _LETTER * len(text)
        for left, base in ((across + 7, down - 5), (across + 7, down + 14), (across - 7 - width, down - 5),
                           (across - 7 - width, down + 14)):  # fmt: skip
            box = (left, base - _LINE, left + width, base)
            inside = left >= _LEFT and box[2] <= WIDTH and box[1] >= _TOP - 8 and base <= HEIGHT - _BOTTOM
            if inside and not any(_meet(box, other) for other in self._taken):
                self._taken.append(box)
                place = f'x="{left:.1f}" y="{base:.1f}"'
                self._marks.append(f'<text class="word" data-s="{series}" {place}>{escaped(text)}</text>')
                return

    def svg(self) -> str:
        """The drawing; what it shows is in its label for those who do not see it."""
        inner = "".join([*self._grid(), *self._marks])
        ends = (_LEFT, WIDTH - _RIGHT, HEIGHT - _BOTTOM, _TOP)
        frame = f'data-frame="{" ".join(map(str, ends))}" data-x="{_ends(self.x)}" data-y="{_ends(self.y)}"'
        label = escaped(f"{self._title}: {self.y.title} against {self.x.title}. {self._says}".strip())
        title = f'<text class="title" x="{_LEFT}" y="16">{escaped(self._title)}</text>'
        return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" {frame}>{title}{inner}</svg>'

    def _grid(self) -> Iterable[str]:
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for tick in self.x.ticks():
            (at,), _ = self.at([tick], [self.y.low])
            yield f'<path class="grid" d="M{at:.1f} {_TOP}V{bottom}"/>'
            yield f'<text class="tick" x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{tick_text(tick)}</text>'
        for tick in self.y.ticks():
            _, (at,) = self.at([self.x.low], [tick])
            yield f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>'
            yield f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>'
        middle = (_LEFT + right) // 2
        yield f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escaped(self.x.title)}</text>'
        across = f'x="11" y="{(_TOP + bottom) // 2}" transform="rotate(-90 11 {(_TOP + bottom) // 2})"'
        yield f'<text class="axis" {across} text-anchor="middle">{escaped(self.y.title)}</text>'


def paint(series: int) -> str:
    """The classes of a series: colour, and dashes once colours repeat."""
    dashes = series // COLOURS
    return f"c{series % COLOURS}" + (f" d{min(dashes, 4)}" if dashes else "")


def path(places: Iterable[tuple[float, float]], *, steps: bool = False) -> str:
    """The ``d`` of a path through ``places``, to a tenth of a unit, broken where one is not finite."""
    words: list[str] = []
    pen = "M"
    for x, y in places:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        words.append(f"H{x:.1f}V{y:.1f}" if steps and pen == "L" else f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(words)


def legend(methods: Sequence[str]) -> str:
    """The name of each series beside its colour; a script makes buttons of them that switch series on and off."""
    items = "".join(
        f'<li data-s="{number}"><svg class="swatch" viewBox="0 0 24 10" aria-hidden="true">'
        f'<path class="line {paint(number)}" d="M0 5H24"/></svg>{escaped(name)}</li>'
        for number, name in enumerate(methods)
    )
    return f'<ul class="legend" aria-label="series">{items}</ul>'


def _meet(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _ends(axis: Axis) -> str:
    kind = "log" if axis.log else "whole" if axis.whole else "even"
    return f"{axis.low!r} {axis.high!r} {kind}"
