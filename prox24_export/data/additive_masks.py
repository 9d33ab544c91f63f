"""Additive masks, whose −Inf mean something: they leave out of a Softmax what they are added to."""

from typing import Any

import numpy as np

from prox24_export.passes.graph.arrays import Array


def find_masked(array: Array) -> Any:
    """Finds the −Inf of a float array of any shape that can be an additive mask.

    Returns:
        Where they are, as booleans of the array's shape; False alone where the array is no such mask: it holds no −Inf,
        a positive value or NaN, or nothing would be left along its last axis.
    """
    masked = np.isneginf(array)
    is_mask = bool(array.ndim and masked.any() and (array <= 0).all() and not masked.all(axis=-1).any())
    return masked if is_mask else False
