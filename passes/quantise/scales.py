"""Scales of symmetric INT8: per tensor from a histogram of magnitudes, per output channel from a weight itself.

The integers are −127 to 127, and the zero point is 0, so that zero stays zero and 2:4 stays 2:4. A scale is the end of
the range over 127; magnitudes beyond the end are clipped to it.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int8

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.quantise.histogram import BINS, Histogram

LAST = 127  # the largest integer; −128 is not used by weights, so that the range is symmetric
SMALLEST = float(np.finfo(np.float32).tiny)  # of a scale: builders refuse zero, and flush what is smaller to it
ENDS = 128  # ends of the range that are tried for the smallest squared error
RATIOS = np.linspace(1.0, 0.5, 26)  # of a channel's largest magnitude, tried as the end of its range

ScaleMethod = Literal["mse", "99.99 %", "99.9 %", "largest"]
SCALE_METHODS: tuple[ScaleMethod, ...] = get_args(ScaleMethod)


def choose_scale(seen: Histogram, method: ScaleMethod) -> float:
    """Chooses the scale of a tensor.

    Args:
        seen: Magnitudes of its entries.
        method: What the end of the range is: the one with the smallest mean squared error, a percentile of the
            magnitudes, or the largest of them.

    Returns:
        A positive scale; 1 / 127 where nothing but zeros was seen.
    """
    if not seen.largest:
        return 1 / LAST
    if method == "largest":
        end = seen.largest
    elif method == "mse":
        end = _find_least_error(seen)
    else:
        share = float(method.removesuffix(" %")) / 100
        below = seen.zeros + np.cumsum(seen.counts)
        end = (int(np.searchsorted(below, share * seen.size)) + 1) * seen.end / BINS
    return float(np.float32(max(min(end, seen.largest) / LAST, SMALLEST)))


def _find_least_error(seen: Histogram) -> float:
    """Finds the end of the range for which the entries, at the centres of their bins, have the least squared error."""
    centres = (np.arange(BINS) + 0.5) * seen.end / BINS
    used = seen.counts > 0
    centres, counts = centres[used], seen.counts[used]
    best, least = seen.largest, np.inf
    for end in seen.largest * np.arange(ENDS, ENDS // 16, -1) / ENDS:
        scale = end / LAST
        error = float(counts @ np.square(centres - scale * np.minimum(np.round(centres / scale), LAST)))
        if error < least:
            best, least = float(end), error
    return best


def round_weight(
    matrix: Float[np.ndarray, "N K"], *, search: bool = True
) -> tuple[Int8[np.ndarray, "N K"], Float[np.ndarray, " N"]]:
    """Rounds a weight to the nearest integers, each output channel with a scale of its own.

    Args:
        matrix: Finite weights.
        search: Whether the end of a channel's range is the one with the least squared error. Otherwise it is the
            channel's largest magnitude.

    Returns:
        The integers, and the float32 scales. A channel of zeros has the scale 1 / 127.
    """
    wide = matrix.astype(np.float32)
    largest = np.abs(wide).max(1, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0).astype(np.float32)
    best = np.maximum(largest / LAST, SMALLEST).astype(np.float32)
    if search:
        least = np.full(len(wide), np.inf)
        for ratio in RATIOS:
            scale = np.maximum(largest * np.float32(ratio) / LAST, SMALLEST).astype(np.float32)
            error = np.square(wide - _to_integers(wide, scale) * scale[:, None]).sum(1, dtype=np.float64)
            best = np.where(error < least, scale, best)
            least = np.minimum(error, least)
    return _to_integers(wide, best).astype(np.int8), best


def _to_integers(matrix: Array, scale: Array) -> Array:
    integers: Array = np.clip(np.rint(matrix / scale[:, None]), -LAST, LAST)
    return integers
