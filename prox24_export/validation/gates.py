"""The limits that the user set, and whether the run kept them.

A figure that was measured on samples or in rounds has an interval. It passes for sure where the whole interval keeps
the limit, fails for sure where none of it does, and is inconclusive where the limit lies within. Without `strict` the
figure itself decides, and the verdict is reported; with it nothing passes that is not sure, also no figure without an
interval.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from prox24_export.results.change import Change
from prox24_export.results.engine import EngineReport, LatencyPoint
from prox24_export.results.report import AccuracyReport, Gate, LayerReport
from prox24_export.validation.metrics import UNITS

GateVerdict = Literal["", "passed", "failed", "inconclusive"]
ROUNDING = 1e-9  # of the limit, or of 1 where that is more: a rounding error is no drop
OF_ACCURACY = ("top1", "top5")  # the metrics that --max-accuracy-drop is for
COPY = (0.0, 0.0, 0.0)  # a copy changes nothing, for certain


class GateLimits(Protocol):
    """The settings that hold limits; None where there is no limit."""

    @property
    def max_accuracy_drop(self) -> float | None:
        """The most percentage points of top-1 accuracy that may be lost."""

    @property
    def max_metric_change(self) -> float | None:
        """The most that any other metric may change for the worse, in its unit."""

    @property
    def min_snr(self) -> float | None:
        """The least signal-to-noise ratio of every float output of a fixed size, in dB."""

    @property
    def min_speedup(self) -> float | None:
        """The least ratio of the dense to the sparse median time."""

    @property
    def min_sparse_layers(self) -> int | None:
        """The fewest layers that must be sparse."""

    @property
    def strict(self) -> bool:
        """Whether a gate passes only where its figure keeps the limit for certain."""


def evaluate_gates(
    settings: GateLimits,
    accuracy: AccuracyReport | None,
    *,
    engine: EngineReport | None = None,
    layers: Sequence[LayerReport] = (),
    is_copy: bool = False,
) -> tuple[Gate, ...]:
    """Judges every limit; one whose figure could not be measured is not kept, and neither is one whose figure is NaN.

    `finite-outputs` has no option: it fails, and is listed, where the sparse model returns NaN, or an infinity at an
    output where the dense model has none.

    Args:
        settings: The limits.
        accuracy: What was measured; None where nothing was.
        engine: What was timed; None where nothing was.
        layers: Every linear layer.
        is_copy: Whether the written model is a copy of the input, which loses nothing, measured or not.
    """
    gates = [] if is_copy else [*_check_finite(accuracy)]
    if settings.max_accuracy_drop is not None:
        figure = COPY if is_copy else measure_worsening(accuracy, "top1", "higher")
        gates.append(check_at_most("max-accuracy-drop", figure, settings.max_accuracy_drop, "points", settings.strict))
        if engine is not None and engine.precision == "int8" and engine.files:
            found = measure_int8_worsening(accuracy, engine)
            name = "max-accuracy-drop of sparse.int8.onnx"
            gates.append(check_at_most(name, found, settings.max_accuracy_drop, "points", settings.strict))
    if settings.max_metric_change is not None:
        gates.extend(_check_metrics(accuracy, settings.max_metric_change, settings.strict, is_copy=is_copy))
    if settings.min_snr is not None:
        gates.append(
            check_at_least(
                "min-snr", _find_worst_snr(accuracy, is_copy=is_copy), settings.min_snr, "dB", settings.strict
            )
        )
    if settings.min_speedup is not None:
        gates.append(_check_speedup(engine, settings.min_speedup))
    if settings.min_sparse_layers is not None:
        count = float(sum(layer.state == "sparse" for layer in layers))
        wanted = float(settings.min_sparse_layers)
        gates.append(check_at_least("min-sparse-layers", (count, count, count), wanted, "layers", strict=False))
    return tuple(gates)


Reading = tuple[float, float | None, float | None]
"""A figure, and the lower and upper end of its interval; None where there is no interval."""


def measure_int8_worsening(accuracy: AccuracyReport | None, engine: EngineReport) -> Reading | None:
    """Measures how many points of top-1 the sparse INT8 file loses against the dense float32 model."""
    if accuracy is None or "top1" not in engine.accuracy:
        return None
    whole = replace(accuracy, sparse=engine.accuracy, changes=engine.changes)
    return measure_worsening(whole, "top1", "higher")


def measure_worsening(accuracy: AccuracyReport | None, metric: str, better: str) -> Reading | None:
    """Measures by how much a metric got worse; where its good direction is not known, by how much it changed at all.

    Args:
        accuracy: What was measured; None where nothing was.
        metric: The name of the metric.
        better: The metric's good direction: `higher`, `lower`, or empty where it is not known.

    Returns:
        The change in the metric's unit; None where the metric was not measured.
    """
    if accuracy is None or metric not in accuracy.dense or metric not in accuracy.sparse:
        return None
    value = accuracy.sparse[metric] - accuracy.dense[metric]
    if math.isinf(value):
        return math.inf, None, None  # of a user's metric; that it would be infinitely better is no finding either
    known = next((change for change in accuracy.changes if change.metric == metric), None)
    low, high = (None, None) if known is None else (known.low, known.high)
    if better == "lower":
        return value, low, high
    if better == "higher":
        return 0.0 - value, None if high is None else 0.0 - high, None if low is None else 0.0 - low  # no −0.00
    return _measure_change(value, known)


def _measure_change(value: float, known: Change | None) -> Reading:
    """Measures the size of a change to either side."""
    if known is None:
        return abs(value), None, None
    ends = abs(known.low), abs(known.high)
    return abs(value), 0.0 if known.low <= 0 <= known.high else min(ends), max(ends)


def check_at_most(name: str, figure: Reading | None, limit: float, unit: str, strict: bool) -> Gate:
    """Makes the gate of a figure that must be at most `limit`.

    Args:
        name: The name of the gate.
        figure: The figure with its interval; None where it could not be measured, and the gate then fails.
        limit: The limit, in `unit`.
        unit: The unit of figure and limit; empty where they have none.
        strict: Whether the upper end of the interval must keep the limit, too.
    """
    if figure is None:
        return Gate(name, None, limit, unit, passed=False, verdict="failed")
    value, low, high = figure
    slack = limit + ROUNDING * max(1.0, abs(limit))
    kept = value <= slack
    verdict = _find_verdict(kept, None if high is None else high <= slack, None if low is None else low > slack, strict)
    return Gate(name, value, limit, unit, kept and (not strict or verdict == "passed"), verdict, low, high)


def check_at_least(name: str, figure: Reading | None, limit: float, unit: str, strict: bool) -> Gate:
    """Makes the gate of a figure that must be at least `limit`; the arguments are those of `check_at_most`."""
    if figure is None:
        return Gate(name, None, limit, unit, passed=False, verdict="failed")
    value, low, high = figure
    kept = value >= limit
    verdict = _find_verdict(kept, None if low is None else low >= limit, None if high is None else high < limit, strict)
    return Gate(name, value, limit, unit, kept and (not strict or verdict == "passed"), verdict, low, high)


def _find_verdict(kept: bool, surely_kept: bool | None, surely_not: bool | None, strict: bool) -> GateVerdict:
    if (
        surely_kept is None or surely_not is None
    ):  # without an interval it is not certain that a limit is kept, which strict asks for
        return "failed" if not kept else "inconclusive" if strict else "passed"
    if surely_kept and kept:
        return "passed"
    return "failed" if surely_not else "inconclusive"


def find_gated_metrics(accuracy: AccuracyReport | None) -> Mapping[str, str]:
    """Finds the metrics that `--max-metric-change` is for: every one but top-1 and top-5.

    Returns:
        The good direction by name: `higher`, `lower`, or empty where it is not known.
    """
    if accuracy is None:
        return {}
    return {name: accuracy.better.get(name, "") for name in accuracy.dense if name not in OF_ACCURACY}


def _check_metrics(accuracy: AccuracyReport | None, limit: float, strict: bool, *, is_copy: bool) -> Iterator[Gate]:
    metrics = find_gated_metrics(accuracy)
    if not metrics:
        yield check_at_most("max-metric-change", COPY if is_copy else None, limit, "", strict)
    for name, better in metrics.items():
        figure = COPY if is_copy else measure_worsening(accuracy, name, better)
        yield check_at_most(f"max-metric-change {name}", figure, limit, UNITS.get(name.split()[0], ""), strict)


def _check_finite(accuracy: AccuracyReport | None) -> Iterator[Gate]:
    broken = 0 if accuracy is None else sum(output.not_finite for output in accuracy.outputs)
    if broken:
        yield check_at_most("finite-outputs", (float(broken), None, None), 0.0, "entries", strict=False)


def _find_worst_snr(accuracy: AccuracyReport | None, *, is_copy: bool) -> Reading | None:
    """Finds the lowest signal-to-noise ratio of all outputs that have one; None where none of them has.

    That of an output equal to the dense one is infinite.
    """
    equal: Reading = (math.inf, math.inf, math.inf)
    if is_copy:
        return equal
    figures = [
        equal if output.snr_db is None else (output.snr_db, output.snr_low, output.snr_high)
        for output in (accuracy.outputs if accuracy else ())
        if output.has_snr
    ]
    if not figures:
        return None
    value = min(figure[0] for figure in figures)
    lows, highs = ([figure[end] for figure in figures] for end in (1, 2))
    known = [side for side in (*lows, *highs) if side is not None]
    if len(known) < len(lows) + len(highs):
        return value, None, None
    return value, min(side for side in lows if side is not None), min(side for side in highs if side is not None)


def _check_speedup(engine: EngineReport | None, limit: float) -> Gate:
    """Holds the lower end of the interval against the limit, at the shapes where it is lowest.

    It does so strict or not, because a speed-up is a promise.
    """
    points: Sequence[LatencyPoint] = () if engine is None else engine.latency
    if not points:
        return Gate("min-speedup", None, limit, "×", passed=False, verdict="failed")
    worst = min(points, key=lambda point: point.speedup.low)
    figure = worst.speedup.value, worst.speedup.low, worst.speedup.high
    gate = check_at_least("min-speedup", figure, limit, "×", strict=True)
    if all(point.valid for point in points):
        return gate
    return replace(gate, passed=False, verdict="inconclusive")  # figures that cannot be trusted prove nothing
