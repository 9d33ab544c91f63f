"""What an array must be to be fed to an input of the model: of its shape, and of a dtype in which its values fit.

Arrays that stay in their files are looked at piece by piece.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from prox24_export.data.additive_masks import can_be_mask
from prox24_export.errors import InputError
from prox24_export.option_values import PictureLayout
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input

CHANNELS, PICTURE_AXES = {1, 3}, 4
PIECE = 1 << 18  # entries that are looked at together: 1 MB of float32


class LazyArray(Protocol):
    """An array of one or more axes whose rows are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of its values."""

    @property
    def ndim(self) -> int:
        """The number of axes."""

    def __len__(self) -> int:
        """The size of the first axis."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Reads rows, which are in memory then."""


LAYOUTS = {"nchw": "[N, C, H, W]", "nhwc": "[N, H, W, C]"}
AnyArray = Array | LazyArray


def can_join(inputs: Sequence[Input]) -> bool:
    """Whether the first axis of every input is dynamic."""
    return all(value.shape and not isinstance(value.shape[0], int) for value in inputs)


def expect_shape(array: AnyArray, value: Input, where: str) -> None:
    """Checks the rank and all fixed axes; the first one runs over samples, in multiples of a fixed batch size.

    Raises:
        InputError: They are not what the input declares.
    """
    shape = value.shape
    if shape is None or (shape == () and array.ndim <= 1):
        return
    if array.ndim != len(shape) or not matches_shape(array.shape[1:], shape[1:]):
        raise InputError(
            f"{where}: {value.name!r} has shape {list(array.shape)}. Expected {show_shape(shape)}, "
            f"the first axis running over samples.{_tell_order(array, shape)}"
        )
    if isinstance(shape[0], int) and len(array) % shape[0]:
        raise InputError(
            f"{where}: {value.name!r} has {len(array)} items. Expected a multiple of the model's fixed batch "
            f"size {shape[0]}."
        )


def _tell_order(array: AnyArray, shape: tuple[int | str | None, ...]) -> str:
    """Says how to move the channels where they are last and should be first, or the other way round; else nothing."""
    for name, order in (("last", (0, 3, 1, 2)), ("first", (0, 2, 3, 1))):
        if array.ndim == len(order) and matches_shape(tuple(array.shape[axis] for axis in order)[1:], shape[1:]):
            return f" Channels are {name} here: store array.transpose{order}."
    return ""


def find_picture_layout(array: AnyArray) -> PictureLayout | None:
    """Finds the order of axes of an array that can hold pictures, uint8 with 1 or 3 channels; None for others."""
    if array.dtype != np.uint8 or array.ndim != PICTURE_AXES:
        return None
    return "nhwc" if array.shape[-1] in CHANNELS else "nchw" if array.shape[1] in CHANNELS else None


def count_samples(feeds: Mapping[str, AnyArray], inputs: Sequence[Input], where: str) -> int | None:
    """Counts the samples that the arrays divide into along their first axis; None where they are one feed together.

    An array without axes is the same for every sample, and so is one of the shape that an input fixes on all its axes,
    beside inputs with a dynamic first axis. Other arrays of different lengths are one feed where the model allows it:
    its first axes have different names, or none.

    Raises:
        InputError: They hold different numbers of samples.
    """
    counts = {_count_items(feeds[value.name], value) for value in inputs if feeds[value.name].ndim}
    if len(counts) == 1:
        return counts.pop()
    own = [value for value in inputs if feeds[value.name].ndim and not is_whole(feeds[value.name], value)]
    own_counts = {_count_items(feeds[value.name], value) for value in own}
    if len(own_counts) == 1 and any(value.shape is None or can_join([value]) for value in own):
        return own_counts.pop()
    first_axes = {(value.shape[0] if value.shape else None, len(feeds[value.name])) for value in own}
    names = [name for name, _ in first_axes if name is not None]
    is_named_twice = len(set(names)) < len(names)  # with two lengths
    if not is_named_twice and all(matches_shape(feeds[value.name].shape, value.shape) for value in inputs):
        return None
    raise InputError(
        f"{where}: the arrays hold different numbers of samples: "
        + ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        + ". Expected the same number along the first axis of each; only an input of fixed shape, beside inputs with a "
        "dynamic first axis, may be given once for all samples."
    )


def _count_items(array: AnyArray, value: Input) -> int:
    """Counts the samples in an array; each has as many rows as a fixed batch axis wants."""
    fixed = value.shape[0] if value.shape and isinstance(value.shape[0], int) else 1
    return len(array) // fixed


def is_whole(array: AnyArray, value: Input) -> bool:
    """Whether an array is all that an input of fixed shape takes, so that it cannot be divided."""
    return value.shape is not None and array.shape == value.shape


def matches_shape(got: tuple[int, ...], declared: tuple[int | str | None, ...] | None) -> bool:
    """Whether a shape has the declared rank and fixed sizes; None declares nothing."""
    if declared is None:
        return True
    pairs = zip(got, declared, strict=False)
    return len(got) == len(declared) and all(not isinstance(size, int) or size == here for here, size in pairs)


def cast_array(array: AnyArray, value: Input, where: str) -> AnyArray:
    """Converts an array to the input's dtype where its values keep their meaning.

    What stays in its file is only checked: it is converted when it is read.

    Raises:
        InputError: They do not, or there is a NaN or Inf among them, save −Inf in an additive mask.
    """
    where = f"{where}: {value.name!r}"
    if _is_float(array.dtype):
        wanted = "finite values, or −Inf in an additive mask; remove or repair that sample"
        _expect_finite(array, where, wanted)
    if array.dtype == value.dtype:
        return array
    both_float = _is_float(array.dtype) and _is_float(value.dtype)
    both_integer = array.dtype.kind in "iu" and value.dtype.kind in "iu"
    least, most = _find_range(array)
    if both_integer and least is not None and most is not None:
        limits = np.iinfo(value.dtype)
        both_integer = least >= limits.min and most <= limits.max
    if not (both_float or both_integer):
        found = str(array.dtype) if least is None else f"{array.dtype} from {least} to {most}"
        layout = find_picture_layout(array) if _is_float(value.dtype) else None
        if layout is not None:
            raise InputError(
                f"{where} is {found}: uint8 {LAYOUTS[layout]} looks like pictures. Give --preprocess imagenet, clip, "
                "siglip or 0-1 as the model was trained, or --mean and --std, or convert them yourself to "
                f"{value.dtype}."
            )
        raise InputError(
            f"{where} is {found}. Expected {value.dtype}, or a type whose values mean the same "
            "(float to float, integers in range); convert it as the model's preprocessing does."
        )
    if both_float:
        _expect_room_in(value.dtype, array, where)
    if not isinstance(array, np.ndarray):
        return array
    with np.errstate(over="ignore"):
        return array.astype(value.dtype)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _cut(array: AnyArray) -> Iterator[tuple[int, Array]]:
    """Yields pieces along the first axis of an array, with the number of their first row."""
    if isinstance(array, np.ndarray) and array.ndim <= 1:  # the last axis, which a mask is judged along, is the first
        yield 0, array
        return
    rows = max(1, PIECE // max(1, math.prod(array.shape[1:]))) if array.ndim > 1 else max(1, len(array))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def _find_range(array: AnyArray) -> tuple[int | None, int | None]:
    """Finds the least and the largest integer; None where there are none."""
    if array.dtype.kind not in "iu" or 0 in array.shape:
        return None, None
    ranges = [(int(piece.min()), int(piece.max())) for _, piece in _cut(array)]
    return min(least for least, _ in ranges), max(most for _, most in ranges)


def _expect_finite(array: AnyArray, where: str, wanted: str) -> None:
    bad = ((start, ~np.isfinite(piece)) for start, piece in _cut(array))
    first = next(((start, places) for start, places in bad if places.any()), None)
    if first is not None and not (array.ndim and all(can_be_mask(piece) for _, piece in _cut(array))):
        raise InputError(f"{where} holds NaN or Inf, first in sample {_find_first(*first)}. Expected {wanted}.")


def _expect_room_in(dtype: np.dtype[Any], array: AnyArray, where: str) -> None:
    """Expects that no finite value becomes infinite in a dtype."""
    for start, piece in _cut(array):
        with np.errstate(over="ignore"):
            places = ~np.isfinite(piece.astype(dtype)) & np.isfinite(piece)
        if places.any():
            raise InputError(
                f"{where} is {array.dtype} and too large for {dtype}, first in sample {_find_first(start, places)}. "
                "Expected values in that type's range."
            )


def _find_first(start: int, places: Array) -> int:
    first = np.argwhere(places)[0]
    return start + int(first[0]) if len(first) else 0


def show_shape(shape: tuple[int | str | None, ...]) -> str:
    """Writes a declared shape for messages, e.g. `[N, 3, ?]`; `?` stands for an axis without size and name."""
    return "[" + ", ".join(str(size or "?") for size in shape) + "]"
