"""Divides channels into groups of four so that two of each group can be left out at the least cost.

The cost of a group is the sum, over all rows, of its two smallest entries. Two groups at a time are divided anew, in
the best of all 35 ways to cut eight channels in two, until no two groups can be divided better. Each step makes the sum
smaller, so the end is a local optimum; the best of several starts is taken. Pairs of groups that have no group in
common are looked at in parallel, and no result depends on how many cores there are.
"""

import itertools
import time
from dataclasses import dataclass
from typing import Any, no_type_check

import numba
import numpy as np
import numpy.typing as npt

from prox24_export.solver.compile_cache import cache_compiled
from prox24_export.solver.pattern import GROUP
from prox24_export.solver.threads import start_threads

Groups = npt.NDArray[np.int64]
BLOCK = 512  # rows looked at together: eight channels of them stay in the first-level cache
LEAST_GAIN = 1e-6  # share of two groups' cost below which a change is rounding
# The 35 ways to cut channels 0 to 7 in two: the four with channel 0, then the other four. The first is as it was.
CUTS = np.array(
    [
        (0, *chosen, *sorted(set(range(1, 2 * GROUP)) - set(chosen)))
        for chosen in itertools.combinations(range(1, 2 * GROUP), GROUP - 1)
    ],
    np.int64,
)

_scalar = cache_compiled(numba.njit(cache=True, nogil=True, fastmath=True))
_parallel = cache_compiled(numba.njit(cache=True, nogil=True, fastmath=True, parallel=True))


@dataclass(frozen=True)
class Division:
    """Channels divided into groups of four.

    Attributes:
        groups: The channels of each group [groups, 4].
        before: What leaving out two of each group cost as the channels were.
        after: What it costs now.
        is_finished: Whether the search ended by itself and not by its limit of time.
    """

    groups: Groups
    before: float
    after: float
    is_finished: bool = True


def divide(
    costs: npt.NDArray[np.float32], *, starts: int = 1, seed: int = 0, seconds: float = float("inf")
) -> Division:
    """Searches the division of channels with the least cost.

    Args:
        costs: What it costs to leave out a channel in a row [channels, rows]; no entry is negative. The number of
            channels is a multiple of 4, and channels 0 to 3 are the first group as it is.
        starts: How many divisions to start from: the one that is there, and random ones.
        seed: Of the random ones.
        seconds: When to stop, with the best that is known by then.

    Returns:
        The division; that which is there where none is better.

    Raises:
        ValueError: The number of channels is not a multiple of 4.
    """
    channels = len(costs)
    if channels % GROUP:
        raise ValueError(f"costs must have a multiple of {GROUP} channels. Got {channels}.")
    start_threads()
    end = time.monotonic() + seconds
    random = np.random.default_rng(seed)
    there = np.arange(channels, dtype=np.int64).reshape(-1, GROUP)
    costs = np.ascontiguousarray(costs, np.float32)
    before = best = add_up(costs, there)
    groups, is_finished = there, True
    for start in range(starts):
        tried = there.copy() if start == 0 else random.permutation(channels).reshape(-1, GROUP)
        is_finished &= _improve(costs, tried, end)
        cost = add_up(costs, tried)
        if cost < best * (1 - LEAST_GAIN):
            groups, best = tried, cost
        if time.monotonic() > end:
            break
    return Division(groups, before, best, is_finished)


def prepare_search() -> None:
    """Compiles the search or reads it from the cache, so that no limit of time is spent on that."""
    divide(np.ones((2 * GROUP, 1), np.float32))


def add_up(costs: npt.NDArray[np.float32], groups: Groups) -> float:
    """Adds up the two smallest entries of every group in every row, in float64."""
    total = 0.0
    for group in groups:
        total += float(np.sort(costs[group], 0)[: GROUP // 2].sum(dtype=np.float64))
    return total


def _improve(costs: npt.NDArray[np.float32], groups: Groups, end: float) -> bool:
    """Divides pairs of groups anew, in place, until nothing changes; returns whether that was before `end`."""
    count = len(groups)
    changed = np.zeros(count, np.int64)  # the round in which a group was changed last
    tested = np.full((count, count), -1, np.int64)
    number = 0
    while True:
        moved = False
        for one, other in _pair_up(count):
            number += 1
            stale = np.maximum(changed[one], changed[other]) > tested[one, other]
            firsts, seconds = one[stale], other[stale]
            tested[firsts, seconds] = number
            better = np.zeros(len(firsts), np.bool_)
            _cut_pairs(costs, groups, firsts, seconds, CUTS, better)
            changed[firsts[better]] = changed[seconds[better]] = number + 1
            moved |= bool(better.any())
            if time.monotonic() > end:
                return False
        if not moved:
            return True


def _pair_up(count: int) -> list[tuple[Groups, Groups]]:
    """All pairs of `count` groups in rounds, in each of which a group occurs once at most: a round-robin tournament."""
    size = count + count % 2
    rounds = []
    for turn in range(size - 1):
        ring = np.r_[0, 1 + (np.arange(size - 1) + turn) % (size - 1)]
        one, other = ring[: size // 2], ring[size // 2 :][::-1]
        real = (one < count) & (other < count)
        low, high = np.minimum(one, other)[real], np.maximum(one, other)[real]
        rounds.append((low, high))
    return rounds


@_scalar
@no_type_check
def _add_two_smallest(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Adds up the two smallest of four entries in every row."""
    total = np.float32(0)
    for r in range(len(a)):
        low, high = min(a[r], b[r]), max(a[r], b[r])
        low2, high2 = min(c[r], d[r]), max(c[r], d[r])
        total += min(low, low2) + min(max(low, low2), high, high2)
    return total


@_parallel
@no_type_check
def _cut_pairs(  # noqa: PLR0917 - compiled functions take no names
    costs: Any, groups: Any, firsts: Any, seconds: Any, cuts: Any, better: Any
) -> None:
    """Cuts each pair of groups in the best way, in place, and notes where that is better than before."""
    rows = costs.shape[1]
    for pair in numba.prange(len(firsts)):
        here = np.empty(8, np.int64)
        here[:4] = groups[firsts[pair]]
        here[4:] = groups[seconds[pair]]
        totals = np.zeros(len(cuts), np.float64)
        for start in range(0, rows, BLOCK):
            m = costs[:, start : min(rows, start + BLOCK)]
            for cut in range(len(cuts)):
                w = here[cuts[cut]]
                totals[cut] += _add_two_smallest(m[w[0]], m[w[1]], m[w[2]], m[w[3]])
                totals[cut] += _add_two_smallest(m[w[4]], m[w[5]], m[w[6]], m[w[7]])
        best = np.argmin(totals)
        if totals[best] < totals[0] * (1 - LEAST_GAIN):
            groups[firsts[pair]] = here[cuts[best, :4]]
            groups[seconds[pair]] = here[cuts[best, 4:]]
            better[pair] = True
