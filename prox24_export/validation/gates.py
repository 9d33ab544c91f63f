"""Limits the user set, and whether the run kept them.

A figure that was measured on samples or in rounds has an interval. It passes for sure where the whole interval keeps
the limit, fails for sure where none of it does, and is inconclusive where the limit lies within. Without `strict` the
figure itself decides and the verdict is told; with it nothing passes that is not sure, also no figure without an
interval.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from prox24_export.results.engine import EngineReport, LatencyPoint
from prox24_export.results.report import AccuracyReport, Change, Gate, LayerReport
from prox24_export.validation.metrics import UNITS

GateVerdict = Literal["", "passed", "failed", "inconclusive"]
ROUNDING = 1e-9  # relative to the limit, or to 1: a rounding error is no drop
OF_ACCURACY = ("top1", "top5")  # these have --max-accuracy-drop
COPY = (0.0, 0.0, 0.0)  # what a byte copy changes


class GateLimits(Protocol):
    """What of the settings is read here."""

    @property
    def max_accuracy_drop(self) -> float | None:
        """Percentage points of top-1."""

    @property
    def max_metric_change(self) -> float | None:
        """In the unit of every other metric."""

    @property
    def min_snr(self) -> float | None:
        """Of every float output, dB."""

    @property
    def min_speedup(self) -> float | None:
        """Dense over sparse median time."""

    @property
    def min_sparse_layers(self) -> int | None:
        """How many."""

    @property
    def strict(self) -> bool:
        """Whether only what is sure passes."""


def evaluate(
    settings: GateLimits,
    accuracy: AccuracyReport | None,
    *,
    engine: EngineReport | None = None,
    layers: Sequence[LayerReport] = (),
    is_copy: bool = False,
) -> tuple[Gate, ...]:
    """A verdict for every limit. A limit whose value could not be measured is not passed.

    Args:
        settings: Holds the limits.
        accuracy: What was measured.
        engine: What was timed.
        layers: Every linear layer.
        is_copy: Whether the output is a byte copy of the input: it loses nothing, measured or not.
    """
    gates = []
    if settings.max_accuracy_drop is not None:
        figure = COPY if is_copy else worsening(accuracy, "top1", "higher")
        gates.append(at_most("max-accuracy-drop", figure, settings.max_accuracy_drop, "points", settings.strict))
    if settings.max_metric_change is not None:
        gates.extend(_metric_gates(accuracy, settings.max_metric_change, settings.strict, is_copy=is_copy))
    if settings.min_snr is not None:
        gates.append(at_least("min-snr", _snr(accuracy, is_copy=is_copy), settings.min_snr, "dB", settings.strict))
    if settings.min_speedup is not None:
        gates.append(_speedup_gate(engine, settings.min_speedup))
    if settings.min_sparse_layers is not None:
        count = float(sum(layer.state == "sparse" for layer in layers))
        wanted = float(settings.min_sparse_layers)
        gates.append(at_least("min-sparse-layers", (count, count, count), wanted, "layers", strict=False))
    return tuple(gates)


Reading = tuple[float, float | None, float | None]  # value, lower and upper end of its interval


def worsening(accuracy: AccuracyReport | None, metric: str, better: str) -> Reading | None:
    """By how much a metric got worse; where its good direction is not known, by how much it changed at all.

    Args:
        accuracy: What was measured.
        metric: Its name.
        better: `higher`, `lower`, or empty.
    """
    if accuracy is None or metric not in accuracy.dense or metric not in accuracy.sparse:
        return None
    value = accuracy.sparse[metric] - accuracy.dense[metric]
    known = next((change for change in accuracy.changes if change.metric == metric), None)
    low, high = (None, None) if known is None else (known.low, known.high)
    if better == "lower":
        return value, low, high
    if better == "higher":
        return 0.0 - value, None if high is None else 0.0 - high, None if low is None else 0.0 - low  # no −0.00
    return _size(value, known)


def _size(value: float, known: Change | None) -> Reading:
    """Of a change to either side."""
    if known is None:
        return abs(value), None, None
    ends = abs(known.low), abs(known.high)
    return abs(value), 0.0 if known.low <= 0 <= known.high else min(ends), max(ends)


def at_most(name: str, figure: Reading | None, limit: float, unit: str, strict: bool) -> Gate:
    """A gate on the upper end."""
    if figure is None:
        return Gate(name, None, limit, unit, passed=False, verdict="failed")
    value, low, high = figure
    slack = limit + ROUNDING * max(1.0, abs(limit))
    kept = value <= slack
    verdict = _verdict(kept, None if high is None else high <= slack, None if low is None else low > slack, strict)
    return Gate(name, value, limit, unit, kept and (not strict or verdict == "passed"), verdict, low, high)


def at_least(name: str, figure: Reading | None, limit: float, unit: str, strict: bool) -> Gate:
    """A gate on the lower end."""
    if figure is None:
        return Gate(name, None, limit, unit, passed=False, verdict="failed")
    value, low, high = figure
    kept = value >= limit
    verdict = _verdict(kept, None if low is None else low >= limit, None if high is None else high < limit, strict)
    return Gate(name, value, limit, unit, kept and (not strict or verdict == "passed"), verdict, low, high)


def _verdict(kept: bool, surely_kept: bool | None, surely_not: bool | None, strict: bool) -> GateVerdict:
    if surely_kept is None or surely_not is None:  # no interval: under strict a kept limit is not sure
        return "failed" if not kept else "inconclusive" if strict else "passed"
    if surely_kept and kept:
        return "passed"
    return "failed" if surely_not else "inconclusive"


def gated_metrics(accuracy: AccuracyReport | None) -> Mapping[str, str]:
    """What `--max-metric-change` looks at, with its good direction: every metric but top-1 and top-5."""
    if accuracy is None:
        return {}
    return {name: accuracy.better.get(name, "") for name in accuracy.dense if name not in OF_ACCURACY}


def _metric_gates(accuracy: AccuracyReport | None, limit: float, strict: bool, *, is_copy: bool) -> Iterator[Gate]:
    metrics = gated_metrics(accuracy)
    if not metrics:
        yield at_most("max-metric-change", COPY if is_copy else None, limit, "", strict)
    for name, better in metrics.items():
        figure = COPY if is_copy else worsening(accuracy, name, better)
        yield at_most(f"max-metric-change {name}", figure, limit, UNITS.get(name.split()[0], ""), strict)


def _snr(accuracy: AccuracyReport | None, *, is_copy: bool) -> Reading | None:
    """Of the output that is furthest from the dense one's; equal outputs have an infinite one."""
    equal: Reading = (math.inf, math.inf, math.inf)
    if is_copy:
        return equal
    if accuracy is None or not accuracy.outputs:
        return None
    figures = [
        equal if output.snr_db is None else (output.snr_db, output.snr_low, output.snr_high)
        for output in accuracy.outputs
    ]
    value = min(figure[0] for figure in figures)
    lows, highs = ([figure[end] for figure in figures] for end in (1, 2))
    known = [side for side in (*lows, *highs) if side is not None]
    if len(known) < len(lows) + len(highs):
        return value, None, None
    return value, min(side for side in lows if side is not None), min(side for side in highs if side is not None)


def _speedup_gate(engine: EngineReport | None, limit: float) -> Gate:
    """On the lower end of the interval, at the shapes where that is lowest, strict or not: a speed-up is a promise."""
    points: Sequence[LatencyPoint] = () if engine is None else engine.latency
    if not points:
        return Gate("min-speedup", None, limit, "×", passed=False, verdict="failed")
    worst = min(points, key=lambda point: point.speedup.low)
    figure = worst.speedup.value, worst.speedup.low, worst.speedup.high
    gate = at_least("min-speedup", figure, limit, "×", strict=True)
    if all(point.valid for point in points):
        return gate
    return replace(gate, passed=False, verdict="inconclusive")  # figures that cannot be trusted prove nothing
