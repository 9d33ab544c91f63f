"""What a function or an iterable of the user's yields, item by item, for as long as all of it fits in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from prox24_export.data.array_files import SHARE, count_bytes, find_free
from prox24_export.errors import InputError
from prox24_export.input_files import MB
from prox24_export.passes.graph.arrays import Array, as_array
from prox24_export.passes.graph.protocol import Input


def read_items(
    items: Iterable[Any], where: str, option: str, inputs: Sequence[Input]
) -> Iterator[tuple[str, Mapping[str, Array]]]:
    """Yields the arrays of every item by input name, with words that say where they are.

    Args:
        items: Feed dictionaries, or arrays or tensors in the order of the inputs; they need not end.
        where: What messages call the source, e.g. `batch`.
        option: The option that named it, e.g. `--calibration`.
        inputs: The inputs of the model.

    Raises:
        InputError: An item cannot be fed to the model, or those so far take more than their share of the memory that
            was free.
    """
    free, taken = find_free(), 0
    for index, item in enumerate(items):
        place = f"{where} {index}"
        arrays = {
            name: convert_value(name, value, f"{option} {place}") for name, value in _name_arrays(item, inputs).items()
        }
        if not arrays:
            raise InputError(
                f"{option} {where}: item {index} is a {type(item).__name__}. Expected a dictionary of arrays by input, "
                f"or {len(inputs)} arrays in the order of the inputs."
            )
        taken += count_bytes(arrays)
        if taken * SHARE > free:
            raise InputError(
                f"{option} {where}: {index + 1:,} items take {taken / MB:,.1f} MB, and {free / MB:,.1f} MB of memory "
                "were free. Expected samples that fit in half of it: take fewer with --samples, or end after fewer."
            )
        yield place, arrays


def _name_arrays(item: Any, inputs: Sequence[Input]) -> Mapping[str, Any]:
    """Returns the arrays of an item by input name; nothing where the item cannot be fed to the model."""
    if isinstance(item, Mapping):
        return item
    values = item if isinstance(item, (tuple, list)) else (item,)
    fits = len(values) == len(inputs) and all(hasattr(value, "shape") for value in values)
    return {value.name: array for value, array in zip(inputs, values, strict=True)} if fits else {}


def convert_value(name: str, value: Any, where: str) -> Array:
    """Converts a value of an item to an array.

    Args:
        name: The name of the input.
        value: A tensor, or what `numpy.asarray` accepts.
        where: The words that say where the item is, for messages.

    Raises:
        InputError: It is neither.
    """
    try:
        return as_array(value) if isinstance(value, Tensor) else np.asarray(value)
    except Exception as error:  # ragged lists
        raise InputError(f"{where}: {name!r} is no array: {error}. Expected what numpy.asarray accepts.") from error
