"""The inputs that a model of transformers is traced with: those of the first samples, or else invented ones.

Tracing looks at names, shapes and dtypes alone, so all values are zero.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prox24_export.data.items import convert_value
from prox24_export.data.sample_groups import LABELS
from prox24_export.errors import InputError
from prox24_export.models.forward_arguments import find_main_inputs, list_parameters
from prox24_export.models.invented_inputs import choose_inputs, invent_shape
from prox24_export.models.processor_files import read_processor
from prox24_export.passes.graph.arrays import Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The number of one sample would become a part of every program. That of two would not be noticed where it became a part
# after all, since two are what `find_batch_size` tries.
BATCH = 3
VALUES = 1 << 27  # entries of one input to trace with
FLOATS = {"pixel_values", "input_features", "input_values", "inputs_embeds", "decoder_inputs_embeds"}
WHERE = "--calibration"


def make_example_inputs(module: "PreTrainedModel", folder: Path, example: Any) -> dict[str, Tensor]:
    """Makes inputs to trace a module with, all zero, in the order of the arguments of its `forward`.

    Args:
        module: The module.
        folder: Its directory, whose processor says how large images and sound are where its configuration does not.
        example: The first batch of samples: arrays or tensors by argument name, or in the order of
            `invented_inputs.choose_inputs`; None where there are no samples.

    Returns:
        Tensors by argument name. Their first axis has at least three entries. Token ids, masks and other integers are
        int64; floats have the type of the module.

    Raises:
        InputError: The samples have arrays that the module does not take, or the sizes of its inputs are not known, or
            are none that samples have.
    """
    parameters = list_parameters(module)
    if example is None:
        found = read_processor(folder)
        shapes = {name: (BATCH, *invent_shape(name, module, found, folder)) for name in choose_inputs(module)}
        kinds = {name: "f" if name in FLOATS else "i" for name in shapes}
    else:
        arrays = _name_arrays(example, module, parameters)
        shapes = _cut_to_few({name: array.shape for name, array in arrays.items()})
        kinds = {name: array.dtype.kind for name, array in arrays.items()}
    return {
        name: _make_zeros(name, shapes[name], _choose_type(name, kinds[name], module.dtype))
        for name in parameters
        if name in shapes
    }


def _name_arrays(example: Any, module: "PreTrainedModel", parameters: list[str]) -> dict[str, Array]:
    """Returns the arrays of a batch by argument name, without labels.

    Raises:
        InputError: There are others than `forward` takes, or a value is no array.
    """
    if isinstance(example, Mapping):
        given = {str(name): value for name, value in example.items() if name != LABELS}
        if len(given) == 1 and not given.keys() & set(parameters):  # one array alone: its name does not matter
            given = dict(zip(find_main_inputs(module), given.values(), strict=False))
    else:
        values = list(example) if isinstance(example, (tuple, list)) else [example]
        wanted = choose_inputs(module) if len(values) > 1 else find_main_inputs(module)[:1]
        if len(values) != len(wanted):
            raise InputError(
                f"{WHERE} has batches of {len(values)} arrays without names, and {type(module).__name__} takes "
                f"{', '.join(wanted)}. Give dictionaries by name; it also takes {', '.join(parameters)}."
            )
        given = dict(zip(wanted, values, strict=True))
    unknown = sorted(given.keys() - set(parameters))
    if unknown or not given:
        raise InputError(
            f"{WHERE} has arrays {sorted(given)}. Expected inputs of {type(module).__name__}, which takes "
            f"{', '.join(parameters)} (and, for evaluation, {LABELS!r})."
        )
    return {name: _convert_numbers(name, value) for name, value in given.items()}


def _convert_numbers(name: str, value: Any) -> Array:
    array = convert_value(name, value, WHERE)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise InputError(f"{WHERE}: {name!r} is {array.dtype}. Expected an array of numbers.")
    return array


def _cut_to_few(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Cuts or repeats the samples to three, where all arrays hold the same number along their first axis."""
    counts = {shape[0] for shape in shapes.values() if shape}
    return {name: (BATCH, *shape[1:]) if shape and len(counts) == 1 else shape for name, shape in shapes.items()}


def _choose_type(name: str, kind: str, floats: torch.dtype) -> torch.dtype:
    """Chooses the type of an input by what it is, and by the kind of array that was given for it."""
    if name.endswith("_ids"):
        return torch.int64
    if kind == "b":
        return torch.bool
    return floats if name in FLOATS or kind not in "iu" else torch.int64


def _make_zeros(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Makes an input of zeros.

    Raises:
        InputError: It would have more entries than samples have.
    """
    if math.prod(shape) > VALUES:
        raise InputError(
            f"the model would be traced with {name!r} of shape {list(shape)}. Expected sizes of text, of images or of "
            f"sound, and at most {VALUES:,} entries in three samples."
        )
    return torch.zeros(shape, dtype=dtype)
