"""Random samples, for models whose data are not at hand."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from prox24_export.data.array_files import expect_room
from prox24_export.data.checked_arrays import matches_shape, show_shape
from prox24_export.data.sample_list import Sample
from prox24_export.data.symbolic_sizes import compute_size, find_symbols
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input

RANDOM_SAMPLES = 32  # where --samples is not given
LARGEST_VALUE = 8  # bytes; integers are drawn as such
RANDOM_AXIS = 32  # size of a dynamic axis other than the first


def draw_random(
    inputs: Sequence[Input],
    rows: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    count: int,
    seed: int,
    *,
    first: int = 1,
    other: int = RANDOM_AXIS,
) -> list[Sample]:
    """Draws seeded random samples.

    Floats are standard normal. Integers are below the number of rows of the table that they index, or below 256 where
    they index none. Scalars are 1. Axes of the same name have the same size in all inputs, and a name such as
    `past + sequence` has the size that it says.

    Args:
        inputs: The inputs of the model.
        rows: The number of rows of the table that an input's integers index, by the input's name.
        shapes: The shapes that the user gave, by input name.
        count: The number of samples.
        seed: The seed of the generator.
        first: The size of a dynamic first axis whose size the user did not give.
        other: The size of any other dynamic axis whose size the user did not give.

    Raises:
        InputError: An input has an unknown rank or a type that cannot be drawn, `shapes` does not fit, or the samples
            take more memory than is free.
    """
    unknown = set(shapes) - {value.name for value in inputs}
    if unknown:
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"--shapes names {min(unknown)!r}, which is no input. The inputs are: {names}.")
    generator = np.random.default_rng(seed)
    sizes = _choose_shapes(inputs, shapes, first, other)
    needed = count * LARGEST_VALUE * sum(map(math.prod, sizes.values()))
    shown = ", ".join(f"{name} {list(shape)}" for name, shape in sizes.items())
    expect_room(needed, f"random inputs of {shown}, for {count} samples,", "Give smaller sizes with --shapes.")
    return [
        Sample({value.name: _draw(generator, value, sizes[value.name], rows) for value in inputs}, place=place)
        for place in range(count)
    ]


def _choose_shapes(
    inputs: Sequence[Input], given: Mapping[str, tuple[int, ...]], first: int, other: int
) -> dict[str, tuple[int, ...]]:
    """Chooses shapes by input name: those that the user gave, or else the declared ones with sizes for dynamic axes."""
    for value in inputs:
        shape = given.get(value.name)
        if shape is not None and value.shape is not None and not matches_shape(shape, value.shape):
            raise InputError(f"--shapes gives {value.name!r} {list(shape)}. Expected {show_shape(value.shape)}.")
        if shape is None and value.shape is None:
            name = value.name
            raise InputError(f"input {name!r} declares no rank. Give its shape: --shapes {name}:1x3x224x224.")
    sizes = _choose_sizes(inputs, given, first, other)
    return {
        value.name: given[value.name]
        if value.name in given
        else tuple(_choose_size(size, sizes, other if axis else first) for axis, size in enumerate(value.shape or ()))
        for value in inputs
    }


def _choose_sizes(
    inputs: Sequence[Input], given: Mapping[str, tuple[int, ...]], first: int, other: int
) -> dict[str, int]:
    """Chooses a size for every symbol: the one that the user gave, `first` where it is of a first axis, or `other`."""
    sizes: dict[str, int] = {}
    axes = [(axis, size) for value in inputs for axis, size in enumerate(value.shape or ()) if isinstance(size, str)]
    for axis, size in sorted(axes, key=lambda place: place[0]):  # first axes first
        for symbol in find_symbols(size):
            sizes.setdefault(symbol, other if axis else first)
    for value in inputs:
        named = zip(value.shape or (), given.get(value.name, ()), strict=False)
        sizes |= {symbol: size for symbol, size in named if isinstance(symbol, str)}
    return sizes


def _choose_size(size: int | str | None, sizes: Mapping[str, int], default: int) -> int:
    if isinstance(size, int):
        return size
    computed = None if size is None else compute_size(size, sizes)
    return computed or default


def _draw(generator: np.random.Generator, value: Input, shape: tuple[int, ...], rows: Mapping[str, int]) -> Array:
    dtype = value.dtype
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise InputError(f"input {value.name!r} is {dtype}: no random values can be drawn. Give --calibration.")
    if shape == ():
        return np.ones((), dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        limit = min(rows.get(value.name, 256), int(np.iinfo(dtype).max) + 1)
        return generator.integers(0, limit, shape).astype(dtype)
    return generator.standard_normal(shape, np.float32).astype(dtype)
