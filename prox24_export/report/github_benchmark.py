"""Figures to follow over time, in the formats of the action `benchmark-action/github-action-benchmark`.

The action takes one direction for each file (`tool: customSmallerIsBetter` or `customBiggerIsBetter`), so there are two
documents. Names stay the same from run to run, because the action finds a figure's history by its name.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from prox24_export.report import engine_tables
from prox24_export.report.tables import number, units
from prox24_export.results.engine import Distribution, LatencyPoint
from prox24_export.results.report import AccuracyReport, Better, Report


def render(report: Report, better: Better = "lower") -> str:
    """Renders the entries whose better direction is `better`, as a JSON list.

    Estimates, figures of measurements that are not valid, metrics that have told no direction, and figures that JSON
    cannot hold are left out.
    """
    entries = [entry for entry in _entries(report, better) if math.isfinite(entry["value"])]
    return json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _entries(report: Report, better: Better) -> Iterator[dict[str, Any]]:
    if report.accuracy is not None:
        yield from _accuracy(report.accuracy, better)
    if report.engine is not None:
        for point in report.engine.latency:
            if point.valid:
                yield from _latency(point, engine_tables.format_engine(report.engine), report.engine.device, better)
    if better == "lower":
        yield _entry("size of the sparse model", report.output.bytes, "bytes")
        if "total" in report.seconds:
            yield _entry("time of the run", report.seconds["total"], "s")
    else:
        yield _entry("sparse layers", len(report.sparse_layers), "layers", extra=f"of {len(report.layers)}")


def _accuracy(accuracy: AccuracyReport, better: Better) -> Iterator[dict[str, Any]]:
    for name, value in accuracy.sparse.items():
        known = accuracy.better.get(name, "higher" if units(name)[0] else None)  # per cent of hits, or PSNR
        if known == better:
            extra = f"dense: {number(accuracy.dense[name], 5)}; {accuracy.samples:,} samples"
            yield _entry(name, value, units(name)[0].strip() or name, extra=extra)
    if better == "higher":
        for output in accuracy.outputs:
            if output.equal is not None:
                yield _entry(f"equal entries of {output.name}", 100 * output.equal, "%")
            if output.snr_db is not None:
                around = _format_interval(output.snr_low, output.snr_high)
                yield _entry(f"SNR of {output.name}", output.snr_db, "dB", around)


def _latency(point: LatencyPoint, engine: str, device: str, better: Better) -> Iterator[dict[str, Any]]:
    shapes = engine_tables.format_shapes(point)
    where = f"{engine} on {device}" if device else engine
    if better == "lower":
        for model, times in (("dense", point.dense), ("sparse", point.sparse)):
            yield _entry(f"latency {model} {shapes}", times.median, "ms", _format_spread(times), where)
    else:
        around = _format_interval(point.speedup.low, point.speedup.high)
        yield _entry(f"speed-up {shapes}", point.speedup.value, "×", around, f"{where}; {point.speedup.verdict}")


def _entry(name: str, value: float, unit: str, around: str = "", extra: str = "") -> dict[str, Any]:
    optional = {"range": around, "extra": extra}
    return {"name": name, "unit": unit, "value": value} | {key: text for key, text in optional.items() if text}


def _format_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low, 4)} to {number(high, 4)}"


def _format_spread(times: Distribution) -> str:
    return f"p99 {number(times.p99, 4)}"
