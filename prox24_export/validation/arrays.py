"""Outputs as arrays, and what the shape of an output says of its content."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from prox24_export.passes.graph.arrays import Array

MOST_CLASS_AXES = 3  # [N, C] or [N, T, C]; a fourth axis is an image
IMAGE_AXES = 4
CHANNELS = (1, 3, 4)  # grey, colour, colour with alpha
LEAST_SIDE = 8  # pixels


def is_float(output: Array) -> bool:
    """Whether an output is a tensor of floats."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def read_output(output: Any) -> Any:
    """Reads an output that holds floats as one array of floats; any other output stays as it is.

    A list of dictionaries with the same keys, as ONNX Runtime returns probabilities by class, becomes an array [N, C]
    with one column for each key. Any other list or dictionary of floats becomes one row of all its entries.
    """
    leaves = list(_walk(output))
    if isinstance(output, np.ndarray) or not leaves or not all(is_float(leaf) for leaf in leaves):
        return output
    rows = output if isinstance(output, (list, tuple)) else ()
    if rows and all(isinstance(row, Mapping) and row.keys() == rows[0].keys() for row in rows):
        columns = [np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]]
        if all(column.shape == (len(rows),) for column in columns):
            return np.stack(columns, axis=1)
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def _walk(output: Any) -> Iterator[Array]:
    """Yields the arrays of an output; a number that stands in a dictionary becomes an array without axes."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        for entry in output:
            yield from _walk(entry)
    else:
        yield np.asarray(output)


def holds_nan(output: Any) -> bool:
    """Whether a float of an output is NaN; outputs in lists and dictionaries are looked at one by one."""
    return any(is_float(leaf) and bool(np.isnan(leaf).any()) for leaf in _walk(output))


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
