"""Geometry of a plot: values on axes become positions that the template draws as SVG.

Across, positions are per cent of the plot's width, so that a plot fits any window; down, they are pixels from its top.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prox24_export.report.tables import number

HEIGHT = 180  # pixels of the plot
ROOM = 10  # pixels above the plot, for the upper half of the topmost label
LINE_WIDTH = 1000  # units across in which polylines are given: SVG's `points` takes no per cent
NOISE = 1e-9  # a narrower range of values counts as a single value
MOST_TICKS = 5


class AxisTick(NamedTuple):
    """A label at a position on its axis."""

    at: float
    label: str


class Bar(NamedTuple):
    """A bar: `x` and `width` in per cent across, `height` in pixels."""

    x: float
    width: float
    height: float
    title: str


class Mark(NamedTuple):
    """A point; `low` to `high` is its interval, drawn as a whisker where they differ."""

    kind: str
    x: float
    y: float
    low: float
    high: float
    title: str


class Line(NamedTuple):
    """A polyline: `points` as SVG takes them, `kind` the class that gives it colour and dashes."""

    kind: str
    points: str


class Key(NamedTuple):
    """One entry of the legend."""

    kind: str
    label: str


class Plot(NamedTuple):
    """All that the template needs to draw a plot; `description` says in words what it shows."""

    name: str
    title: str
    description: str
    across: str
    down: str
    x_ticks: Sequence[AxisTick]
    y_ticks: Sequence[AxisTick]
    bars: Sequence[Bar] = ()
    gaps: Sequence[float] = ()
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    rule: float | None = None
    legend: Sequence[Key] = ()


class Axis(NamedTuple):
    """A range with round ends, and its round steps."""

    low: float
    high: float
    step: float

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def down(self, value: float) -> float:
        """Pixels from the top."""
        return ROOM + HEIGHT * (1 - self.share(value))

    def across(self, value: float) -> float:
        """Per cent from the left."""
        return 100 * self.share(value)

    def values(self) -> Sequence[float]:
        """The values of the ticks."""
        return [self.low + index * self.step for index in range(round((self.high - self.low) / self.step) + 1)]

    def ticks(self, place: Callable[[float], float], unit: str = "", factor: float = 1) -> list[AxisTick]:
        """The ticks, whose labels have as many digits as are needed to tell neighbours apart."""
        largest = factor * max(abs(self.low), abs(self.high))
        digits = min(15, max(1, _power(largest) - _power(factor * self.step) + 1))
        return [
            AxisTick(place(value), f"{number(_clean(factor * value, digits), digits)}{unit}") for value in self.values()
        ]


def make_axis(low: float, high: float) -> Axis:
    """Makes the smallest axis with round ends that holds both values, in at most six steps of 1, 2 or 5."""
    step = _step(high - low, max(abs(low), abs(high)))
    first, last = math.floor(low / step + NOISE), math.ceil(high / step - NOISE)
    return Axis(first * step, max(last, first + 1) * step, step)


def make_line(kind: str, points: Sequence[tuple[float, float]]) -> Line:
    """Makes a polyline through points (per cent across, pixels down)."""
    return Line(kind, " ".join(f"{LINE_WIDTH * x / 100:.1f},{y:.1f}" for x, y in points))


def _step(span: float, size: float) -> float:
    """1, 2 or 5 times a power of ten, at most five of which reach `span`."""
    if span < NOISE * max(1.0, size):
        return 0.01 if size < 1 else 10.0 ** (_power(size) - 2)
    power = 10.0 ** math.floor(math.log10(span / MOST_TICKS))
    return next((factor * power for factor in (1, 2, 5) if factor * power * MOST_TICKS >= span), 10 * power)


def _power(value: float) -> int:
    return math.floor(math.log10(value) + NOISE) if value > 0 else 0


def _clean(value: float, digits: int) -> float:
    """Removes the noise of the last bits, which would print as −1e−17."""
    return float(f"{value:.{digits + 3}g}") if abs(value) > NOISE**2 else 0.0
