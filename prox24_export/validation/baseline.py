"""A run against an earlier one: accuracy, latency and the number of sparse layers must not get worse.

Tolerances lie between what repeating a run changes and what must be caught. The same command on the same machine gives
the same accuracy to the bit, and one image of 500 (0.2 points) more or less on another; 0.5 points are a regression.
Medians of valid latencies (variation at most 2.5 %) repeat within 2 or 3 %; 5 % are one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prox24_export.results.engine import EngineReport, LatencyPoint
from prox24_export.results.report import AccuracyReport, Gate, LayerReport, Report
from prox24_export.validation.gates import check_at_least, check_at_most, measure_worsening
from prox24_export.validation.metrics import UNITS

POINTS = 0.25  # of a metric in points
SHARE = 0.01  # of a metric in another unit, relative to its earlier value
DECIBELS = 1.0  # of the signal-to-noise ratio, where no metric was measured
SLOWER = 3.0  # per cent of the sparse engine's median


@dataclass(frozen=True)
class BaselineComparison:
    """What the comparison with an earlier run says.

    Attributes:
        gates: The gates, whose names begin with `baseline`.
        warnings: What could not be compared, or only with reservations, a sentence each.
    """

    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]


def compare_with_baseline(
    earlier: Report,
    accuracy: AccuracyReport | None,
    *,
    engine: EngineReport | None = None,
    layers: Sequence[LayerReport] = (),
    strict: bool = False,
) -> BaselineComparison:
    """Compares a run with an earlier one, in everything that the earlier one measured.

    A metric that was measured before and is not measured now does not pass. Latency is compared where engine, precision
    and device are the same, at the shapes that both runs timed; else there is a warning and no verdict.

    Args:
        earlier: The baseline; `load_report(Path)` reads it, before any work.
        accuracy: Of this run.
        engine: Of this run.
        layers: Of this run.
        strict: Also compare the bad ends of both runs' intervals: an accuracy that fewer samples support has regressed.
    """
    warnings = [*_warn_of_other_data(earlier.accuracy, accuracy)]
    gates = [*_check_metrics(earlier.accuracy, accuracy, strict=strict)]
    times, why = _check_latency(earlier.engine, engine)
    gates += times
    warnings += why
    before, now = (float(sum(layer.state == "sparse" for layer in rows)) for rows in (earlier.layers, layers))
    gates.append(check_at_least("baseline sparse layers", (now, None, None), before, "layers", strict=False))
    return BaselineComparison(tuple(gates), tuple(warnings))


def _check_metrics(before: AccuracyReport | None, now: AccuracyReport | None, *, strict: bool) -> Iterator[Gate]:
    if before is None:
        return
    if not before.sparse:
        yield from _check_snr(before, now)
        yield from _check_equal_entries(before, now)
    for metric, value in before.sparse.items():
        unit = UNITS.get(metric.split()[0], "")
        limit = POINTS if unit == "points" else SHARE * abs(value)
        found = None if now is None else now.sparse.get(metric)
        better: str = before.better.get(metric) or (None if now is None else now.better.get(metric)) or ""
        drop = None if found is None else _find_worsening(found - value, better)
        yield check_at_most(
            f"baseline {metric}", None if drop is None else (drop, None, None), limit, unit, strict=False
        )
        ends = [measure_worsening(report, metric, better) for report in (before, now)]
        if strict and ends[0] is not None and ends[0][2] is not None:
            worst = None if ends[1] is None or ends[1][2] is None else (ends[1][2] - ends[0][2], None, None)
            yield check_at_most(f"baseline {metric}, bad end", worst, limit, unit, strict=False)


def _find_worsening(change: float, better: str) -> float:
    if not math.isfinite(change):
        return math.nan  # a metric that is no number, or infinite, is no improvement: NaN keeps no limit
    return {"higher": -change, "lower": change}.get(better, abs(change))


def _check_snr(before: AccuracyReport, now: AccuracyReport | None) -> Iterator[Gate]:
    """Compares the agreement with the dense model, for runs whose metrics do not say what the model is worth."""
    earlier, found = (_find_worst_snr(report) for report in (before, now))
    if earlier is None:
        return
    if now is not None and any(output.not_finite for output in now.outputs):
        found = None  # NaN is no better than any figure, not even than NaN
    drop = None if found is None else 0.0 if found == earlier else earlier - found  # inf − inf is no number
    yield check_at_most("baseline snr", None if drop is None else (drop, None, None), DECIBELS, "dB", strict=False)


def _check_equal_entries(before: AccuracyReport, now: AccuracyReport | None) -> Iterator[Gate]:
    """Compares the share of equal entries of the outputs that hold no floats, the lowest of each run."""
    shares = [
        [100 * output.equal for output in (report.outputs if report else ()) if output.equal is not None]
        for report in (before, now)
    ]
    if shares[0]:
        drop = min(shares[0]) - min(shares[1]) if shares[1] else None
        yield check_at_most(
            "baseline equal entries", None if drop is None else (drop, None, None), POINTS, "points", strict=False
        )


def _find_worst_snr(report: AccuracyReport | None) -> float | None:
    """Finds the lowest signal-to-noise ratio; None where no output has one."""
    ratios = [output.snr_db for output in (report.outputs if report else ()) if output.has_snr]
    return min((math.inf if ratio is None else ratio for ratio in ratios), default=None)


def _warn_of_other_data(before: AccuracyReport | None, now: AccuracyReport | None) -> Iterator[str]:
    if before is None or now is None:
        return
    moved = [
        name for name, value in before.dense.items() if name in now.dense and not math.isclose(value, now.dense[name])
    ]
    if before.samples != now.samples:
        yield (
            f"--baseline was measured on {before.samples} samples, this run on {now.samples}: part of a difference in "
            "accuracy may be due to that. Evaluate both on the same file."
        )
    elif moved:
        yield (
            f"--baseline has another {', '.join(moved)} of the dense model: part of a difference in accuracy may be "
            "due to other samples, another model or another runtime."
        )


def _check_latency(before: EngineReport | None, now: EngineReport | None) -> tuple[list[Gate], list[str]]:
    if before is None or not before.latency:
        return [], []
    prefix = "--baseline: latency is not compared: "
    if now is None or not now.latency:
        return [], [f"{prefix}it was measured there and not here."]
    for what in ("engine", "precision", "device"):
        one, other = getattr(before, what), getattr(now, what)
        if one != other:
            return [], [f"{prefix}its {what} is {one or 'not known'}, this run's is {other or 'not known'}."]
    pairs = [(point, other) for point in before.latency for other in now.latency if _shapes(point) == _shapes(other)]
    if not pairs:
        return [], [f"{prefix}no input shapes were timed in both runs."]
    doubtful = [pair for pair in pairs if not (pair[0].valid and pair[1].valid)]
    if doubtful:
        reasons = dict.fromkeys(reason for pair in doubtful for point in pair for reason in point.reasons)
        return [], [f"{prefix}figures of one run are not valid ({'; '.join(reasons) or 'no reason is given'})."]
    warnings = []
    if before.version != now.version:
        warnings.append(
            f"--baseline: {now.engine} was {before.version or 'of unknown version'} there and is "
            f"{now.version or 'of unknown version'} here."
        )
    slower = max(100 * (point.sparse.median / earlier.sparse.median - 1) for earlier, point in pairs)
    return [check_at_most("baseline latency", (slower, None, None), SLOWER, "%", strict=False)], warnings


def _shapes(point: LatencyPoint) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in point.shapes.items()}
