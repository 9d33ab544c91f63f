"""The user's own metric."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from prox24_export import user_code
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Runner
from prox24_export.results.report import AccuracyReport, Better
from prox24_export.validation import intervals
from prox24_export.validation.intervals import FloatArray, PairedRows

MetricBatches = Iterable[tuple[Mapping[str, Array], Array | None]]
WANTED = "takes (run, batches) and returns a number, or numbers by name"
SUMS = 2  # totals and what they count


@dataclass(frozen=True)
class Measured:
    """What the function returned for one model.

    Attributes:
        values: Of every metric by name.
        totals: Of those that came by sample: totals and weights, each [n]; the value is `Σ total / Σ weight`.
        better: Which direction is good, where the function's attribute `better` says so.
        steps: Of metrics by sample whose totals are counts: those change by 1 at least.
    """

    values: dict[str, float]
    totals: dict[str, tuple[FloatArray, FloatArray]]
    better: dict[str, Better]
    steps: frozenset[str] = frozenset()


def measure_samples(spec: str, model: Runner, names: Sequence[str], batches: MetricBatches) -> Measured:
    """Calls `module:function` with a model and the evaluation batches.

    Args:
        spec: The function takes `run`, from feeds by input name to outputs by output name, and `batches`, a list of
            (feeds, labels or None). It returns a metric, or metrics by name. A metric is a number; an array of one
            number a sample, of which it is the mean; or two such arrays, of which it is the ratio of the sums (errors
            and words). Its attribute `better`, if it has one, is `"higher"`, `"lower"`, or one of these by name.
        model: Feeds to outputs, in the order of `names`.
        names: Outputs.
        batches: What the function gets.

    Raises:
        InputError: The function fails, or returns something else.
    """

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, model(feeds), strict=True))

    def use(function: Callable[..., Any]) -> tuple[Any, Any]:
        return function(run, _copies(batches)), getattr(function, "better", {})

    returned, better = user_code.run(spec, "--metric", WANTED, use)
    found = returned if isinstance(returned, Mapping) else {spec.rpartition(":")[2]: returned}
    values: dict[str, float] = {}
    totals: dict[str, tuple[FloatArray, FloatArray]] = {}
    steps = set()
    for key, value in found.items():
        name = str(key)
        sides = _by_sample(value)
        if sides is None:
            values[name] = _number(value, spec)
            continue
        total, weight = (_finite(side, value, spec) for side in sides)
        if len(total) != len(weight) or (weight < 0).any() or weight.sum() <= 0:
            raise InputError(
                f"--metric {spec} returned {name!r} as {len(total)} totals and {len(weight)} weights that sum to "
                f"{weight.sum():g}. Expected as many of both, one a sample; no weight negative, not all 0."
            )
        values[name], totals[name] = float(total.sum() / weight.sum()), (total, weight)
        if _counts(sides[0]):
            steps.add(name)
    return Measured(values, totals, _better(better, values, spec), frozenset(steps))


def add_to(report: AccuracyReport, dense: Measured, sparse: Measured) -> AccuracyReport:
    """The report with the user's metrics: values, direction, and intervals of those that came by sample.

    Raises:
        InputError: The function returned other names for the sparse model.
    """
    if dense.values.keys() != sparse.values.keys():
        raise InputError(
            f"--metric returned {sorted(dense.values)} of the dense model and {sorted(sparse.values)} of the sparse "
            "one. Expected the same names."
        )
    found = [intervals.change(name, rows) for name, rows in _paired(dense, sparse).items()]
    return replace(
        report,
        dense={**report.dense, **dense.values},
        sparse={**report.sparse, **sparse.values},
        changes=(
            *(change for change in report.changes if change.metric not in dense.values),
            *(change for change in found if change is not None),
        ),
        better={**{name: way for name, way in report.better.items() if name not in dense.values}, **dense.better},
    )


def _paired(dense: Measured, sparse: Measured) -> dict[str, PairedRows]:
    """By name; a metric whose weights differ between the models has no pairs."""
    pairs = {}
    for name, (total, weight) in dense.totals.items():
        if name in sparse.totals and np.array_equal(sparse.totals[name][1], weight):
            atom = float(name in dense.steps and name in sparse.steps)
            pairs[name] = PairedRows(total, sparse.totals[name][0], weight, atom=atom)
    return pairs


def _by_sample(value: Any) -> tuple[Array, Array] | None:
    """Totals and weights; None of a single number."""
    if isinstance(value, tuple) and len(value) == SUMS and all(np.ndim(side) == 1 for side in value):
        return np.asarray(value[0]), np.asarray(value[1])
    if isinstance(value, (str, bytes)) or np.ndim(value) != 1 or not len(value):
        return None
    return np.asarray(value), np.ones(len(value))


def _counts(totals: Array) -> bool:
    return totals.dtype.kind in "biu" or bool(np.isin(totals, (0, 1)).all())


def _finite(side: Array, value: Any, spec: str) -> FloatArray:
    try:
        wide: FloatArray = np.asarray(side, np.float64)
    except (TypeError, ValueError):
        wide = np.full(1, np.nan)
    if not np.isfinite(wide).all():
        raise InputError(f"--metric {spec} returned {value!r}. Expected a function that {WANTED}, finite ones.")
    return wide


def _better(told: Any, values: Mapping[str, float], spec: str) -> dict[str, Better]:
    ways = dict(told) if isinstance(told, Mapping) else dict.fromkeys(values, told)
    wrong = {name: way for name, way in ways.items() if way not in get_args(Better) or name not in values}
    if wrong:
        raise InputError(
            f"--metric {spec}: its attribute `better` says {wrong}. Expected 'higher' or 'lower', for metrics that it "
            f"returns: {', '.join(values)}."
        )
    return ways


def _copies(batches: MetricBatches) -> list[Any]:
    """The function may change what it gets."""
    return [
        ({name: array.copy() for name, array in feeds.items()}, None if labels is None else labels.copy())
        for feeds, labels in batches
    ]


def _number(value: Any, spec: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"--metric {spec} returned {value!r}. Expected a function that {WANTED}, finite ones.")
    return number
