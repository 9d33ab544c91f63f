"""Random samples, for models whose data are not at hand."""

from collections.abc import Mapping, Sequence

import numpy as np

from prox24_export.data.samples import Sample, matches_shape, show_shape
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input

RANDOM_SAMPLES = 32  # where --samples is not given
RANDOM_AXIS = 32  # size of a dynamic axis other than the first


def draw_random(
    inputs: Sequence[Input], rows: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], count: int, seed: int
) -> list[Sample]:
    """Draws seeded random samples.

    Floats are standard normal. Integers are below the number of rows of the table that they index, or below 256 where
    they index none. Scalars are 1.

    Args:
        inputs: The inputs of the model.
        rows: The number of rows of the table that an input's integers index, by the input's name.
        shapes: The shapes that the user gave, by input name.
        count: The number of samples.
        seed: The seed of the generator.

    Raises:
        InputError: An input has an unknown rank or a type that cannot be drawn, or `shapes` does not fit.
    """
    unknown = set(shapes) - {value.name for value in inputs}
    if unknown:
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"--shapes names {min(unknown)!r}, which is no input. The inputs are: {names}.")
    generator = np.random.default_rng(seed)
    sizes = {value.name: _choose_shape(value, shapes.get(value.name)) for value in inputs}
    return [
        Sample({value.name: _draw(generator, value, sizes[value.name], rows) for value in inputs}) for _ in range(count)
    ]


def _choose_shape(value: Input, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """Returns the shape that the user gave, or else the declared one with a size for each dynamic axis."""
    if given is not None:
        if value.shape is not None and not matches_shape(given, value.shape):
            raise InputError(f"--shapes gives {value.name!r} {list(given)}. Expected {show_shape(value.shape)}.")
        return given
    if value.shape is None:
        raise InputError(f"input {value.name!r} declares no rank. Give its shape: --shapes {value.name}:1x3x224x224.")
    return tuple(
        size if isinstance(size, int) else (1 if axis == 0 else RANDOM_AXIS) for axis, size in enumerate(value.shape)
    )


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
