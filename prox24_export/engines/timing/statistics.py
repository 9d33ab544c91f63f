"""The distribution of inference times as trtexec defines it, and the ratio of two medians with a bootstrap interval."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prox24_export.results.engine import Distribution, Ratio, SpeedVerdict

Rounds = npt.NDArray[np.float64]  # [rounds, runs], milliseconds
CONFIDENCE = 0.95
PER_CENT = 100


def find_percentile(ascending: Sequence[float], per_cent: int) -> float:
    """Finds the `percentile(N%)` that trtexec prints, which is an observed time and never one between two.

    Source: NVIDIA/TensorRT, samples/common/sampleReporting.cpp, `findPercentile`; its float32 arithmetic is kept, which
    decides the index where N per cent of the times is a whole number.

    Args:
        ascending: The times in ascending order, at least one.
        per_cent: The percentile, from 0 to 100.
    """
    above = int((np.float32(1) - np.float32(per_cent) / np.float32(PER_CENT)) * np.float32(len(ascending)))
    return float(ascending[max(len(ascending) - 1 - above, 0)])


def summarise_times(times: npt.ArrayLike) -> Distribution:
    """Summarises a model's times for the report; the deviation is that of the population, like that of trtexec.

    Args:
        times: Times in milliseconds, of any shape.

    Raises:
        ValueError: There is no time, or one is not a positive, finite number.
    """
    ordered = np.sort(np.asarray(times, dtype=np.float64), axis=None)
    if not ordered.size or not np.isfinite(ordered).all() or ordered[0] <= 0:
        raise ValueError(
            f"times must be positive, finite milliseconds, at least one. Got {ordered[:3]} of {len(ordered)}."
        )
    mean = float(ordered.mean())
    quantiles = tuple(find_percentile(ordered.tolist(), per_cent) for per_cent in range(PER_CENT + 1))
    return Distribution(
        runs=len(ordered),
        min=float(ordered[0]),
        max=float(ordered[-1]),
        mean=mean,
        median=float(np.median(ordered)),
        p90=quantiles[90],
        p95=quantiles[95],
        p99=quantiles[99],
        throughput=1000 / mean,
        variation=float(ordered.std()) / mean,
        quantiles=quantiles,
    )


def compare_times(slower: Rounds, faster: Rounds, *, resamples: int, resolution: float, seed: int) -> Ratio:
    """Divides the median of `slower` by that of `faster`, with the percentile interval of a bootstrap over rounds.

    Whole rounds are drawn, the same for both models: runs of a round share the machine's state, so that single runs
    would pretend to more independent observations than there are, and what slows a round slows both.

    Args:
        slower: The times of the model that is expected to be slower, in milliseconds.
        faster: The times of the other model, in as many rounds.
        resamples: The number of draws.
        resolution: The resolution of the timer in milliseconds; no median is known better than half of it, however
            often the same time recurs.
        seed: The seed of the draws.

    Raises:
        ValueError: The models differ in their number of rounds, or have none.
    """
    if len(slower) != len(faster) or not len(slower):
        raise ValueError(f"both models must have as many rounds, at least one. Got {len(slower)} and {len(faster)}.")
    draws = np.random.default_rng(seed).integers(len(slower), size=(resamples, len(slower)))
    found = np.array([np.median(slower[draw]) / np.median(faster[draw]) for draw in draws])
    above, below = float(np.median(slower)), float(np.median(faster))
    slack = resolution / 2 * (1 / above + 1 / below)
    tail = (1 - CONFIDENCE) / 2
    value = above / below
    low = min(float(np.quantile(found, tail)), value) * (1 - slack)
    high = max(float(np.quantile(found, 1 - tail)), value) * (1 + slack)
    return Ratio(value, low, high, judge_interval(low, high))


def judge_interval(low: float, high: float) -> SpeedVerdict:
    """Says what the interval of a ratio means for the model in its denominator."""
    if math.isnan(low) or math.isnan(high) or low <= 1 <= high:
        return "no measurable difference"
    return "faster" if low > 1 else "slower"
