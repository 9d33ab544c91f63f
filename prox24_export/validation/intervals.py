"""What a metric measured on some samples can say of all others: a paired bootstrap over samples.

The interval is the percentile one, of the samples and two more: one whose change is as large as that of any sample,
one with the opposite change. Without them 50 samples of which none changed would promise that none ever does. This is
Bonett and Price's adjustment for paired proportions (Psychological Methods 17, 2012), drawn instead of calculated.

Why this one: a simulation of 600 trials a case. Of hit-or-miss metrics on 50 samples of which 1 to 4 % change, the
plain percentile interval held the truth 0.43 to 0.81 of the time, BCa 0.42 to 0.81, this one 0.99 or more. From 200
samples on all three are between 0.92 and 0.97. None is good on few samples with very uneven changes: where their
logarithm has a standard deviation of 1.2, this one held the truth 0.86 of the time on 20 samples and 0.90 on 50, the
percentile one 0.82 and 0.87, BCa 0.83 and 0.87. `tests/validation/test_intervals.py` holds this one to 0.92 in milder
cases.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prox24_export.results.report import Change

FloatArray = npt.NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 4000
PIECE = 1 << 22  # counts held at once
LEAST = 2  # samples; one says nothing of another


@dataclass(frozen=True)
class PairedRows:
    """A metric of two models by sample: it is `of(Σ total / Σ weight)`, summed over samples.

    Attributes:
        dense: Total of each sample, [n].
        sparse: The same of the sparse model, [n].
        weight: What each sample counts, e.g. its labels or tokens, [n]; not negative, not all 0.
        of: From the mean to the metric, elementwise.
        atom: Least by which a total can change: 1 hit of a hit-or-miss metric; 0 where it can change by anything.
    """

    dense: FloatArray
    sparse: FloatArray
    weight: FloatArray
    of: Callable[[FloatArray], FloatArray] = np.asarray
    atom: float = 0.0

    def values(self) -> tuple[float, float]:
        """The metric of both models."""
        weight = self.weight.sum()
        return tuple(float(self.of(np.asarray(side.sum() / weight))) for side in (self.dense, self.sparse))  # type: ignore[return-value]  # two


def change(metric: str, rows: PairedRows, *, seed: int = 0) -> Change | None:
    """Sparse minus dense with its 95 % interval; None for fewer than two samples, or where one is not finite.

    Args:
        metric: Its name.
        rows: What was measured.
        seed: Of the draws.
    """
    if len(rows.weight) < LEAST or not all(np.isfinite(side).all() for side in (rows.dense, rows.sparse)):
        return None

    def difference(sums: FloatArray) -> FloatArray:
        dense, sparse, weight = sums.T
        return rows.of(sparse / weight) - rows.of(dense / weight)

    dense, sparse = rows.values()
    table = np.concatenate([np.stack([rows.dense, rows.sparse, rows.weight], axis=1), _extremes(rows)])
    low, high = interval(table, difference, seed=seed)
    value = sparse - dense
    return Change(metric, value, min(low, value), max(high, value), len(rows.weight))


def interval(table: FloatArray, statistic: Callable[[FloatArray], FloatArray], *, seed: int = 0) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of a statistic of column sums.

    Rows that are equal are drawn together, as one binomial count: a million hits and misses cost as little as ten.

    Args:
        table: One row for each sample, [n, columns].
        statistic: From the column sums of resamples, [resamples, columns], to a figure of each; NaN is left out.
        seed: Of the draws.

    Raises:
        ValueError: There is no row, or a value is not finite.
    """
    if not len(table) or not np.isfinite(table).all():
        raise ValueError(f"samples must be at least one, their sums finite. Got {len(table)}: {table[:3].tolist()}.")
    distinct, times = np.unique(table, axis=0, return_counts=True)
    draw = np.random.default_rng(seed)
    step = max(1, PIECE // len(distinct))
    found = []
    for start in range(0, RESAMPLES, step):
        counts = draw.multinomial(len(table), times / len(table), size=min(step, RESAMPLES - start))
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold nothing that counts
            found.append(statistic(counts.astype(np.float64) @ distinct))
    figures = np.concatenate(found)
    figures = figures[~np.isnan(figures)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(figures, [tail, 1 - tail], method="closest_observation")  # of infinities there is no mean
    return float(low), float(high)


def _extremes(rows: PairedRows) -> FloatArray:
    """Two samples that change as much as any, to either side, [2, 3]."""
    weight = rows.weight.mean()
    dense = rows.dense.sum() / rows.weight.sum() * weight
    largest = max(float(np.abs(rows.sparse - rows.dense).max()), rows.atom)
    return np.array([[dense, dense + sign * largest, weight] for sign in (-1, 1)])
