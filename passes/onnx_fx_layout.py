"""ONNX operators that move, select or make entries, as torch functions."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_fx_table import Floats, Ints, Unsupported, as_tensor, ints, number, one_of, operator

INDEX_OF_CUMULATIVE = {"sum": torch.cumsum, "prod": torch.cumprod}


@operator("Reshape", literals=[1])
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """Other sizes; −1 is inferred, 0 is kept as it is."""
    sizes = ints(shape)
    if not allowzero:
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Transpose")
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Axes in another order; reversed where none is given."""
    return x.permute(tuple(reversed(range(x.dim()))) if perm is None else tuple(perm))


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """A matrix: axes before `axis`, and those from it on."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze", since=13, literals=[1])
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without axes of size 1: these, or all."""
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


@operator("Squeeze")
def squeeze_by_attribute(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """The same, as before opset 13."""
    return squeeze(x, axes)


@operator("Unsqueeze", since=13, literals=[1])
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """With new axes of size 1 at these places of the result."""
    places = ints(axes)
    rank = x.dim() + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


@operator("Unsqueeze")
def unsqueeze_by_attribute(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    """The same, as before opset 13."""
    return unsqueeze(x, axes)


@operator("Concat")
def concat(*values: Tensor, axis: int) -> Tensor:
    """Several values along one axis."""
    return torch.cat(values, axis)


@operator("Split", since=13, literals=[1])
def split(
    x: Tensor, sizes: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> tuple[Tensor, ...]:
    """Pieces along an axis: of these sizes, or as equal as can be, the last one smaller."""
    if sizes is not None:
        return torch.split(x, ints(sizes), axis)
    if num_outputs not in {None, outputs}:
        raise Unsupported(f"num_outputs = {num_outputs} for {outputs} outputs")
    size, piece = x.shape[axis], math.ceil(x.shape[axis] / outputs)
    return torch.split(x, [max(0, min(piece, size - index * piece)) for index in range(outputs)], axis)


@operator("Split", since=2)
def split_by_attribute(
    x: Tensor, *, split: Sequence[int] | None = None, axis: int = 0, outputs: int
) -> tuple[Tensor, ...]:
    """The same, as before opset 13."""
    if split is not None:
        return torch.split(x, list(split), axis)
    return torch.split(x, x.shape[axis] // outputs, axis)


@operator("Slice", since=10, literals=[1, 2, 3, 4])
def slice_axes(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Ranges of positions along axes; a step may be negative."""
    firsts, lasts = ints(starts), ints(ends)
    places = range(len(firsts)) if axes is None else ints(axes)
    strides = [1] * len(firsts) if steps is None else ints(steps)
    for axis, first, last, step in zip(places, firsts, lasts, strides, strict=True):
        x = _sliced(x, axis, range(*slice(first, last, step).indices(x.shape[axis])))
    return x


@operator("Slice", since=1)
def slice_by_attributes(
    x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Tensor:
    """The same, as before opset 10."""
    return slice_axes(x, starts, ends, axes)


@operator("Gather", literals=[1])
def gather(x: Tensor, index: Ints, *, axis: int = 0) -> Tensor:
    """Entries of an axis by position; the positions' axes take its place."""
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
    """Entry by entry, from the position along an axis that the index holds."""
    return torch.gather(x, axis, _from_the_front(index.long(), x.shape[axis]))


@operator("GatherND", fixed=[1])
def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Slices by coordinates in the index's last axis, the first `batch_dims` axes paired."""
    batch = x.shape[:batch_dims]
    rows = torch.arange(math.prod(batch), device=x.device)
    paired = rows.reshape(-1, *[1] * (index.dim() - batch_dims - 1))
    flat = x.reshape(-1, *x.shape[batch_dims:])
    coordinates = index.long().reshape(-1, *index.shape[batch_dims:]).unbind(-1)
    taken = flat[(paired, *coordinates)]
    return taken.reshape(*batch, *taken.shape[1:])


@operator("ScatterElements", "Scatter", fixed=[1])
def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """X with the updates at the positions along an axis, or combined with what is there."""
    positions = _from_the_front(index.long(), x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, positions, updates)
    return torch.scatter_reduce(x, axis, positions, updates, _combination(reduction), include_self=True)


@operator("ScatterND", fixed=[1])
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """X with the updates at the coordinates in the index's last axis, or combined with what is there."""
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


@operator("Expand", literals=[1])
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast against these sizes."""
    return x.expand(torch.broadcast_shapes(x.shape, ints(shape)))  # type: ignore[no-untyped-call]


@operator("Tile", since=6, literals=[1])
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """Repeated along every axis."""
    return x.repeat(ints(repeats))


@operator("Pad", since=11, literals=[1, 2, 3], only={"mode": one_of("constant", "reflect", "edge", "wrap")})
def pad(
    x: Tensor, pads: Ints, value: Floats | None = None, axes: Ints | None = None, *, mode: str = "constant"
) -> Tensor:
    """More (or, where negative, fewer) entries before and after axes."""
    amounts = ints(pads)
    places = [axis % x.dim() for axis in (range(x.dim()) if axes is None else ints(axes))]
    before, after = [0] * x.dim(), [0] * x.dim()
    for axis, first, last in zip(places, amounts[: len(places)], amounts[len(places) :], strict=True):
        before[axis], after[axis] = first, last
    if mode == "constant":
        backwards = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
        return F.pad(x, backwards, value=0 if value is None else number(value))
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        if first or last:
            positions = torch.arange(-first, x.shape[axis] + last, device=x.device)
            x = x.index_select(axis, _inside(positions, x.shape[axis], mode))
    return x


@operator("Pad", since=2, only={"mode": one_of("constant", "reflect", "edge")})
def pad_by_attributes(x: Tensor, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """The same, as before opset 11."""
    return pad(x, pads, value, mode=mode)


@operator("DepthToSpace", only={"mode": one_of("DCR", "CRD")})
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels of [N, C, H, W] moved into blocks of space."""
    n, c, h, w = x.shape
    b, rest = blocksize, c // blocksize**2
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    return x.reshape(n, b, b, rest, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, rest, h * b, w * b)


@operator("SpaceToDepth", only={"mode": one_of("DCR", "CRD")})
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Blocks of space of [N, C, H, W] moved into channels."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return F.pixel_unshuffle(x, b)
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@operator("Trilu", literals=[1])
def trilu(x: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle of the last two axes, from diagonal `k` on."""
    diagonal = 0 if k is None else ints(k)[0]
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("CumSum", literals=[1], extra={"how": "sum"})
@operator("CumProd", literals=[1], extra={"how": "prod"})
def cumulative(x: Tensor, axis: Ints, *, how: str, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sums or products along an axis, without the entry itself where exclusive."""
    (place,) = ints(axis)
    x = x.flip(place) if reverse else x
    result = INDEX_OF_CUMULATIVE[how](x, place, dtype=x.dtype)
    if exclusive:
        first = torch.full_like(x.narrow(place, 0, 1), int(how == "prod"))
        result = torch.cat([first, result.narrow(place, 0, x.shape[place] - 1)], place)
    return result.flip(place) if reverse else result


@operator("ReverseSequence", fixed=[1])
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first `lengths` steps of every sequence, backwards."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(moved.shape[1], device=x.device)
    ends = lengths.long().unsqueeze(1)
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = torch.arange(moved.shape[0], device=x.device).unsqueeze(1)
    return moved[rows, order].movedim((0, 1), (batch_axis, time_axis))


@operator("Compress", fixed=[1])
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Entries of an axis, or of all in order, where the condition holds."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


@operator("Cast", only={"saturate": lambda _: True, "round_mode": lambda _: True})
def cast(x: Tensor, *, to: torch.dtype) -> Tensor:
    """Another type."""
    return x.to(to)


@operator("CastLike", fixed=[1], only={"saturate": lambda _: True, "round_mode": lambda _: True})
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """The type of another value."""
    return x.to(like.dtype)


@operator("Shape", detached=True)
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Sizes as int64."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@operator("Size", detached=True)
def size_of(x: Tensor) -> Tensor:
    """The number of entries as int64."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


@operator("Constant", detached=True)
def constant(
    *,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    """Numbers in attributes; a whole tensor in one is stored, and never comes here."""
    reals = value_floats if value_float is None else value_float
    if reals is not None:
        return torch.tensor(reals, dtype=torch.float32)
    return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64)


@operator("ConstantOfShape", detached=True)
def constant_of_shape(shape: Tensor, *, value: tuple[float, torch.dtype] = (0.0, torch.float32)) -> Tensor:
    """One number everywhere."""
    return torch.full(ints(shape), value[0], dtype=value[1], device=shape.device)


@operator("Range", detached=True)
def numbers(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """From start up to limit, excluded."""
    first, step = start.item(), delta.item()
    count = max(0, math.ceil((limit.item() - first) / step))
    return first + step * torch.arange(count, dtype=start.dtype, device=start.device)


@operator("EyeLike", detached=True)
def eye_like(x: Tensor, *, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    """Ones on diagonal `k` of a matrix of these sizes."""
    ones = torch.ones(x.shape, dtype=dtype or x.dtype, device=x.device)
    return torch.triu(torch.tril(ones, k), k)


@operator("OneHot", fixed=[0, 1], literals=[1])
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    """A new axis, `values[1]` at the index and `values[0]` elsewhere."""
    (size,) = ints(depth)
    wanted = indices.long().unsqueeze(axis)
    shape = [1] * wanted.dim()
    shape[axis] = size
    places = torch.arange(size, device=indices.device).reshape(shape)
    # Negative ones count from the end; what lies outside hits nothing.
    return torch.where((places == wanted) | (places == wanted + size), values[1], values[0])


@operator("NonZero", detached=True)
def non_zero(x: Tensor) -> Tensor:
    """Coordinates of entries other than 0, as columns."""
    return torch.nonzero(x).T


def _sliced(x: Tensor, axis: int, chosen: range) -> Tensor:
    if chosen == range(x.shape[axis]):
        return x
    if chosen.step < 0 or not chosen:
        return x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))
    rest: list[slice] = [slice(None)] * x.dim()
    rest[axis] = slice(chosen.start, chosen.stop, chosen.step)
    return x[tuple(rest)]


def _from_the_front(positions: Tensor, size: int) -> Tensor:
    """Negative positions count from the end."""
    return torch.where(positions < 0, positions + size, positions)


def _combination(reduction: str) -> str:
    try:
        return {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    except KeyError:
        raise Unsupported(f"reduction = {reduction}") from None


def _inside(positions: Tensor, size: int, mode: str) -> Tensor:
    """Where the entries at positions outside an axis come from."""
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap" or size == 1:
        return positions % size
    period = 2 * (size - 1)
    return size - 1 - (positions % period - (size - 1)).abs()
