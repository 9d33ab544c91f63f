"""Additive masks, whose −Inf mean something: they leave out of a Softmax what they are added to."""

import numpy as np

from prox24_export.passes.graph.arrays import Array


def can_be_mask(array: Array) -> bool:
    """Whether a float array of one or more axes can be an additive mask, or a part of one.

    It holds no positive value and no NaN, and something is left along its last axis everywhere.
    """
    if np.isnan(array).any():
        return False
    return bool((array <= 0).all() and not np.isneginf(array).all(axis=-1).any())
