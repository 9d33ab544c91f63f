"""ONNX operators that make values from sizes, positions and numbers, as torch functions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import Ints, operator, read_ints


@operator("Shape", detached=True)
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Returns the sizes of a value as int64."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@operator("Size", detached=True)
def size_of(x: Tensor) -> Tensor:
    """Returns the number of entries of a value as int64."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


@operator("Constant", detached=True)
def constant(
    *,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    """Makes a tensor of numbers in attributes. A whole tensor in an attribute is a stored one, and never comes here."""
    reals = value_floats if value_float is None else value_float
    if reals is not None:
        return torch.tensor(reals, dtype=torch.float32)
    return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64)


@operator("ConstantOfShape", detached=True)
def constant_of_shape(shape: Tensor, *, value: tuple[float, torch.dtype] = (0.0, torch.float32)) -> Tensor:
    """Makes a tensor of these sizes with one number everywhere."""
    return torch.full(read_ints(shape), value[0], dtype=value[1], device=shape.device)


@operator("Range", detached=True)
def numbers(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Counts from `start` to `limit` in steps of `delta`; `limit` is excluded."""
    first, step = start.item(), delta.item()
    count = max(0, math.ceil((limit.item() - first) / step))
    return first + step * torch.arange(count, dtype=start.dtype, device=start.device)


@operator("EyeLike", detached=True)
def eye_like(x: Tensor, *, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    """Makes a matrix of the sizes of `x` with ones on diagonal `k`."""
    ones = torch.ones(x.shape, dtype=dtype or x.dtype, device=x.device)
    return torch.triu(torch.tril(ones, k), k)


@operator("OneHot", fixed=[0, 1], literals=[1])
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    """Makes a new axis that holds `values[1]` at the index and `values[0]` elsewhere."""
    (size,) = read_ints(depth)
    wanted = indices.long().unsqueeze(axis)
    shape = [1] * wanted.dim()
    shape[axis] = size
    places = torch.arange(size, device=indices.device).reshape(shape)
    # Negative ones count from the end; what lies outside hits nothing.
    return torch.where((places == wanted) | (places == wanted + size), values[1], values[0])


@operator("NonZero", detached=True)
def non_zero(x: Tensor) -> Tensor:
    """Finds the coordinates of entries other than 0, as columns."""
    return torch.nonzero(x).T
