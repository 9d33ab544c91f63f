"""What the shape of an output says of its content."""

import numpy as np

from prox24_export.passes.graph.arrays import Array

MOST_CLASS_AXES = 3  # [N, C] or [N, T, C]; a fourth axis is an image
IMAGE_AXES = 4
CHANNELS = (1, 3, 4)  # grey, colour, colour with alpha
LEAST_SIDE = 8  # pixels


def is_float(output: Array) -> bool:
    """Whether an output is a tensor of floats."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def has_classes(output: Array) -> bool:
    """Whether an arg-max over the last axis says anything."""
    return output.ndim > 1 and output.shape[-1] > 1


def looks_like_classes(output: Array) -> bool:
    """Whether an output is [N, C] or [N, T, C] with at least two classes."""
    return has_classes(output) and output.ndim <= MOST_CLASS_AXES


def is_image(output: Array) -> bool:
    """Whether an output is [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 channels and at least 8 × 8 pixels."""
    if output.ndim != IMAGE_AXES:
        return False
    _, first, middle, last = output.shape
    channels_first = first in CHANNELS and min(middle, last) >= LEAST_SIDE
    channels_last = last in CHANNELS and min(first, middle) >= LEAST_SIDE
    return channels_first or channels_last
