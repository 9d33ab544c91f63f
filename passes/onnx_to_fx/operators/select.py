"""ONNX operators that take or put entries by position, as torch functions."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import Ints, Unsupported, as_tensor, operator, read_ints


@operator("Slice", since=10, literals=[1, 2, 3, 4])
def slice_axes(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Takes ranges of positions along axes. A step may be negative."""
    firsts, lasts = read_ints(starts), read_ints(ends)
    places = range(len(firsts)) if axes is None else read_ints(axes)
    strides = [1] * len(firsts) if steps is None else read_ints(steps)
    for axis, first, last, step in zip(places, firsts, lasts, strides, strict=True):
        x = _sliced(x, axis, range(*slice(first, last, step).indices(x.shape[axis])))
    return x


@operator("Slice", since=1)
def slice_by_attributes(
    x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Tensor:
    """Does the same as `slice_axes`, with attributes as before opset 10."""
    return slice_axes(x, starts, ends, axes)


@operator("Gather", literals=[1])
def gather(x: Tensor, index: Ints, *, axis: int = 0) -> Tensor:
    """Takes entries of an axis by position. The axes of the positions take the place of that axis."""
    if isinstance(index, int):
        return x.select(axis, index)
    positions = _from_the_front(as_tensor(index, x), x.shape[axis])
    axis %= x.dim()
    if axis == 0 and x.dim() == 2 and x.is_floating_point():  # noqa: PLR2004 (a table of rows)
        return F.embedding(positions, x)
    taken = x.index_select(axis, positions.reshape(-1))
    return taken.reshape(*x.shape[:axis], *positions.shape, *x.shape[axis + 1 :])


@operator("GatherElements", fixed=[1])
def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """Takes each entry from the position along an axis that the index holds for it."""
    return torch.gather(x, axis, _from_the_front(index.long(), x.shape[axis]))


@operator("GatherND", fixed=[1])
def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Takes slices by coordinates in the index's last axis. The first `batch_dims` axes of both are paired."""
    batch = x.shape[:batch_dims]
    rows = torch.arange(math.prod(batch), device=x.device)
    paired = rows.reshape(-1, *[1] * (index.dim() - batch_dims - 1))
    flat = x.reshape(-1, *x.shape[batch_dims:])
    coordinates = index.long().reshape(-1, *index.shape[batch_dims:]).unbind(-1)
    taken = flat[(paired, *coordinates)]
    return taken.reshape(*batch, *taken.shape[1:])


@operator("ScatterElements", "Scatter", fixed=[1])
def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """Puts updates at positions along an axis of x, or combines them with the entries there."""
    positions = _from_the_front(index.long(), x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, positions, updates)
    return torch.scatter_reduce(x, axis, positions, updates, _combination(reduction), include_self=True)


@operator("ScatterND", fixed=[1])
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Puts updates at the coordinates in the index's last axis, or combines them with the entries there."""
    depth = index.shape[-1]
    sizes, rest = x.shape[:depth], math.prod(x.shape[depth:])
    flat = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, size in enumerate(sizes):
        flat = flat * size + _from_the_front(index[..., axis].long(), size)
    rows, values = x.reshape(math.prod(sizes), rest), updates.reshape(-1, rest)
    positions = flat.reshape(-1, 1).expand(-1, rest)
    if reduction == "none":
        return torch.scatter(rows, 0, positions, values).reshape(x.shape)
    combined = torch.scatter_reduce(rows, 0, positions, values, _combination(reduction), include_self=True)
    return combined.reshape(x.shape)


@operator("ReverseSequence", fixed=[1])
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverses the first `lengths` steps of every sequence."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(moved.shape[1], device=x.device)
    ends = lengths.long().unsqueeze(1)
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = torch.arange(moved.shape[0], device=x.device).unsqueeze(1)
    return moved[rows, order].movedim((0, 1), (batch_axis, time_axis))


@operator("Compress", fixed=[1])
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Takes the entries of an axis, or of the flattened value, where the condition holds."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


def _sliced(x: Tensor, axis: int, chosen: range) -> Tensor:
    if chosen == range(x.shape[axis]):
        return x
    if chosen.step < 0 or not chosen:
        return x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))
    rest: list[slice] = [slice(None)] * x.dim()
    rest[axis] = slice(chosen.start, chosen.stop, chosen.step)
    return x[tuple(rest)]


def _from_the_front(positions: Tensor, size: int) -> Tensor:
    """Converts negative positions, which count from the end, to ones that count from the front."""
    return torch.where(positions < 0, positions + size, positions)


def _combination(reduction: str) -> str:
    try:
        return {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    except KeyError:
        raise Unsupported(f"reduction = {reduction}") from None
