"""The user's own metric, a function that is given with `--metric`."""

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
SUMS = 2  # arrays that a metric by sample may come as: totals and weights


@dataclass(frozen=True)
class Measured:
    """What the function returned for one model.

    Attributes:
        values: The value of every metric, by name.
        totals: The totals and weights, float64 [n] each, of the metrics that came by sample; such a metric's value is
            `Σ total / Σ weight`.
        better: The good direction of the metrics for which the function's attribute `better` names one.
        steps: The names of the metrics by sample whose totals are counts, which change by 1 at least.
    """

    values: dict[str, float]
    totals: dict[str, tuple[FloatArray, FloatArray]]
    better: dict[str, Better]
    steps: frozenset[str] = frozenset()


def measure_samples(
    spec: str, model: Runner, names: Sequence[str], batches: MetricBatches, *, is_sparse: bool = False
) -> Measured:
    """Calls the user's function with a model and the evaluation batches.

    Args:
        spec: The function as `module:function`. It takes `run`, which makes outputs by name of feeds by input name, and
            `batches`, a list of pairs of feeds and labels, or None for no labels. It returns a metric, or metrics by
            name. A metric is a number; or an array of one number for each sample, whose mean is its value; or two such
            arrays, such as errors and words, the ratio of whose sums is its value. The function's attribute `better`,
            if it has one, is `"higher"` or `"lower"`, or one of these for each metric by name.
        model: Runs the model: from feeds to outputs, in the order of `names`.
        names: The names of the outputs.
        batches: The batches that the function gets, as copies.
        is_sparse: Whether the model is the sparse one, of which NaN and infinity are findings that no gate passes. Of
            the dense one they are refused, since nothing could be compared with them.

    Raises:
        InputError: The function fails, or returns something else.
    """

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, model(feeds), strict=True))

    def use(function: Callable[..., Any]) -> tuple[Any, Any]:
        return function(run, _copy_batches(batches)), getattr(function, "better", {})

    returned, better = user_code.call_function(spec, "--metric", WANTED, use)
    found = returned if isinstance(returned, Mapping) else {spec.rpartition(":")[2]: returned}
    values: dict[str, float] = {}
    totals: dict[str, tuple[FloatArray, FloatArray]] = {}
    steps = set()
    for key, value in found.items():
        name = str(key)
        sides = _split_by_sample(value)
        if sides is None:
            values[name] = _expect_number(value, spec, is_sparse=is_sparse)
            continue
        total, weight = (_expect_finite(side, value, spec, is_sparse=is_sparse) for side in sides)
        if len(total) != len(weight) or (weight < 0).any() or weight.sum() <= 0:
            raise InputError(
                f"--metric {spec} returned {name!r} as {len(total)} totals and {len(weight)} weights that sum to "
                f"{weight.sum():g}. Expected as many of both, one a sample; no weight negative, not all 0."
            )
        values[name], totals[name] = float(total.sum() / weight.sum()), (total, weight)
        if _are_counts(sides[0]):
            steps.add(name)
    return Measured(values, totals, _check_directions(better, values, spec), frozenset(steps))


def add_metrics(report: AccuracyReport, dense: Measured, sparse: Measured) -> AccuracyReport:
    """Returns the report with the user's metrics: values, directions, and intervals of those that came by sample.

    Raises:
        InputError: The function returned other names for the sparse model.
    """
    if dense.values.keys() != sparse.values.keys():
        raise InputError(
            f"--metric returned {sorted(dense.values)} of the dense model and {sorted(sparse.values)} of the sparse "
            "one. Expected the same names."
        )
    found = [intervals.estimate_change(name, rows) for name, rows in _pair_samples(dense, sparse).items()]
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


def _pair_samples(dense: Measured, sparse: Measured) -> dict[str, PairedRows]:
    """Pairs the samples of both models for each metric; one whose weights differ between the models has no pairs."""
    pairs = {}
    for name, (total, weight) in dense.totals.items():
        if name in sparse.totals and np.array_equal(sparse.totals[name][1], weight):
            atom = float(name in dense.steps and name in sparse.steps)
            pairs[name] = PairedRows(total, sparse.totals[name][0], weight, atom=atom)
    return pairs


def _split_by_sample(value: Any) -> tuple[Array, Array] | None:
    """Returns totals and weights of a metric by sample; None for a single number."""
    if isinstance(value, tuple) and len(value) == SUMS and all(_count_axes(side) == 1 for side in value):
        return np.asarray(value[0]), np.asarray(value[1])
    if isinstance(value, (str, bytes)) or _count_axes(value) != 1 or not len(value):
        return None
    return np.asarray(value), np.ones(len(value))


def _count_axes(value: Any) -> int:
    """Counts the axes of an array or of nested lists; 0 where the lists are no array."""
    try:
        return np.ndim(value)
    except ValueError:  # of different lengths
        return 0


def _are_counts(totals: Array) -> bool:
    return totals.dtype.kind in "biu" or bool(np.isin(totals, (0, 1)).all())


def _expect_finite(side: Array, value: Any, spec: str, *, is_sparse: bool) -> FloatArray:
    try:
        wide: FloatArray = np.asarray(side, np.float64)
        is_right = is_sparse or bool(np.isfinite(wide).all())
    except (TypeError, ValueError, OverflowError):
        is_right = False
    if not is_right:
        raise InputError(
            f"--metric {spec} returned {value!r}. Expected a function that {WANTED}; every number must be finite."
        )
    return wide


def _check_directions(stated: Any, values: Mapping[str, float], spec: str) -> dict[str, Better]:
    ways = dict(stated) if isinstance(stated, Mapping) else dict.fromkeys(values, stated)
    wrong = {name: way for name, way in ways.items() if way not in get_args(Better) or name not in values}
    if wrong:
        raise InputError(
            f"--metric {spec}: its attribute `better` says {wrong}. Expected 'higher' or 'lower', for metrics that it "
            f"returns: {', '.join(values)}."
        )
    return ways


def _copy_batches(batches: MetricBatches) -> list[Any]:
    """Copies the batches, because the function may change what it gets."""
    return [
        ({name: array.copy() for name, array in feeds.items()}, None if labels is None else labels.copy())
        for feeds, labels in batches
    ]


def _expect_number(value: Any, spec: str, *, is_sparse: bool) -> float:
    try:
        number = float(value)
        is_right = is_sparse or math.isfinite(number)
    except (TypeError, ValueError, OverflowError):
        is_right = False
    if not is_right:
        raise InputError(
            f"--metric {spec} returned {value!r}. Expected a function that {WANTED}; every number must be finite."
        )
    return number
