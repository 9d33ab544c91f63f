"""Stored tensors as arrays, matrices and torch tensors, and back, bfloat16 included."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prox24_export.errors import InputError

Array = npt.NDArray[Any]
PIECE = 1 << 22  # entries that are looked at together
EXTERNAL_ABOVE = 1_800_000_000  # bytes of an ONNX model above which tensors go to another file: protobuf ends at 2 GiB
EXTERNAL_TENSOR = 1024  # bytes of a tensor below which it stays in the model file


def is_finite(array: Array) -> bool:
    """Whether a float array holds neither NaN nor Inf. It is looked at piece by piece, without a copy of the whole."""
    pieces = np.array_split(array.reshape(-1), max(1, array.size // PIECE))
    return all(bool(np.isfinite(piece).all()) for piece in pieces)


def map_file(file: Path, dtype: np.dtype[Any], shape: Iterable[int], offset: int = 0) -> Array:
    """Maps a part of a file into memory as an array; the system reads what is used, and may forget it again.

    Args:
        file: The file.
        dtype: Type of the entries.
        shape: Shape of the array.
        offset: The first byte.

    Returns:
        The array. What is written into it stays with it and never reaches the file.

    Raises:
        InputError: The file has become shorter, or cannot be read.
    """
    sizes = tuple(shape)
    size = math.prod(sizes) * dtype.itemsize
    if not size:
        return np.empty(sizes, dtype)
    try:
        array: Array = np.asarray(np.memmap(file, np.uint8, mode="c", offset=offset, shape=(size,)))
    except (OSError, ValueError) as error:  # the second one where it ends before the part does
        raise InputError(
            f"{file} was changed while it was read: {error}. Expected it to stay as it is to the end; run again."
        ) from error
    return array.view(dtype).reshape(sizes)


def as_array(tensor: Tensor) -> Array:
    """Converts a tensor to a NumPy array on the CPU; bfloat16 becomes the type of ml_dtypes."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(as_numpy_dtype("bfloat16"))
    return tensor.numpy()


def as_tensor(array: Array) -> Tensor:
    """Converts an array to a tensor; it is the inverse of `as_array`."""
    if array.dtype == as_numpy_dtype("bfloat16"):
        bits = np.require(array, requirements=["C", "W"]).view(np.int16)
        return torch.from_numpy(bits).view(torch.bfloat16)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def as_numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a stored type by its name; that of `bfloat16` comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: PLC0415 (only for the one type NumPy lacks)

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def find_largest_value(name: str) -> float:
    """Finds the largest finite value of a stored float type, such as 65504 for `float16`."""
    import ml_dtypes  # noqa: PLC0415 (as above)

    return float(ml_dtypes.finfo(as_numpy_dtype(name)).max)  # type: ignore[no-untyped-call] # stub lacks it
