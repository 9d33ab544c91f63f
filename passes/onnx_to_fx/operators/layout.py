"""ONNX operators that give entries another place or type, as torch functions."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import (
    Floats,
    Ints,
    Unsupported,
    make_membership_test,
    operator,
    read_ints,
    read_number,
)

INDEX_OF_CUMULATIVE = {"sum": torch.cumsum, "prod": torch.cumprod}


@operator("Reshape", literals=[1])
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """Gives a value other sizes. −1 is inferred; 0 keeps a size as it is, unless `allowzero` is set."""
    sizes = read_ints(shape)
    if not allowzero:
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Transpose")
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Puts the axes in another order, the reverse one where none is given."""
    return x.permute(tuple(reversed(range(x.dim()))) if perm is None else tuple(perm))


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Makes a matrix: the axes before `axis` become one, and those from it on the other."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze", since=13, literals=[1])
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Removes axes of size 1: the given ones, or all."""
    return x.squeeze() if axes is None else x.squeeze(tuple(read_ints(axes)))


@operator("Squeeze")
def squeeze_by_attribute(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Does the same as `squeeze`, with an attribute as before opset 13."""
    return squeeze(x, axes)


@operator("Unsqueeze", since=13, literals=[1])
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Inserts new axes of size 1, at these places of the result."""
    places = read_ints(axes)
    rank = x.dim() + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


@operator("Unsqueeze")
def unsqueeze_by_attribute(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Does the same as `unsqueeze`, with an attribute as before opset 13."""
    return unsqueeze(x, axes)


@operator("Concat")
def concat(*values: Tensor, axis: int) -> Tensor:
    """Joins several values along one axis."""
    return torch.cat(values, axis)


@operator("Split", since=13, literals=[1])
def split(
    x: Tensor, sizes: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> tuple[Tensor, ...]:
    """Splits a value along an axis, into pieces of these sizes, or into equal ones of which the last may be smaller."""
    if sizes is not None:
        return torch.split(x, read_ints(sizes), axis)
    if num_outputs not in {None, outputs}:
        raise Unsupported(f"num_outputs = {num_outputs} for {outputs} outputs")
    size, piece = x.shape[axis], math.ceil(x.shape[axis] / outputs)
    return torch.split(x, [max(0, min(piece, size - index * piece)) for index in range(outputs)], axis)


@operator("Split", since=2)
def split_by_attribute(
    x: Tensor, *, split: Sequence[int] | None = None, axis: int = 0, outputs: int
) -> tuple[Tensor, ...]:
    """Does the same as `split`, with an attribute as before opset 13."""
    if split is not None:
        return torch.split(x, list(split), axis)
    return torch.split(x, x.shape[axis] // outputs, axis)


@operator("Expand", literals=[1])
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcasts a value against these sizes."""
    return x.expand(torch.broadcast_shapes(x.shape, read_ints(shape)))  # type: ignore[no-untyped-call]


@operator("Tile", since=6, literals=[1])
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """Repeats a value along every axis."""
    return x.repeat(read_ints(repeats))


@operator(
    "Pad", since=11, literals=[1, 2, 3], only={"mode": make_membership_test("constant", "reflect", "edge", "wrap")}
)
def pad(
    x: Tensor, pads: Ints, value: Floats | None = None, axes: Ints | None = None, *, mode: str = "constant"
) -> Tensor:
    """Adds entries before and after axes, or removes them where a number is negative."""
    amounts = read_ints(pads)
    places = [axis % x.dim() for axis in (range(x.dim()) if axes is None else read_ints(axes))]
    before, after = [0] * x.dim(), [0] * x.dim()
    for axis, first, last in zip(places, amounts[: len(places)], amounts[len(places) :], strict=True):
        before[axis], after[axis] = first, last
    if mode == "constant":
        backwards = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
        return F.pad(x, backwards, value=0 if value is None else read_number(value))
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        if first or last:
            positions = torch.arange(-first, x.shape[axis] + last, device=x.device)
            x = x.index_select(axis, _inside(positions, x.shape[axis], mode))
    return x


@operator("Pad", since=2, only={"mode": make_membership_test("constant", "reflect", "edge")})
def pad_by_attributes(x: Tensor, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Does the same as `pad`, with attributes as before opset 11."""
    return pad(x, pads, value, mode=mode)


@operator("DepthToSpace", only={"mode": make_membership_test("DCR", "CRD")})
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Moves channels of [N, C, H, W] into blocks of space."""
    n, c, h, w = x.shape
    b, rest = blocksize, c // blocksize**2
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    return x.reshape(n, b, b, rest, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, rest, h * b, w * b)


@operator("SpaceToDepth", only={"mode": make_membership_test("DCR", "CRD")})
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Moves blocks of space of [N, C, H, W] into channels."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return F.pixel_unshuffle(x, b)
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@operator("Trilu", literals=[1])
def trilu(x: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    """Takes the upper or lower triangle of the last two axes, from diagonal `k` on."""
    diagonal = 0 if k is None else read_ints(k)[0]
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("CumSum", literals=[1], extra={"how": "sum"})
@operator("CumProd", literals=[1], extra={"how": "prod"})
def cumulative(x: Tensor, axis: Ints, *, how: str, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Computes running sums or products along an axis, without the entry itself where `exclusive` is set."""
    (place,) = read_ints(axis)
    x = x.flip(place) if reverse else x
    result = INDEX_OF_CUMULATIVE[how](x, place, dtype=x.dtype)
    if exclusive:
        first = torch.full_like(x.narrow(place, 0, 1), int(how == "prod"))
        result = torch.cat([first, result.narrow(place, 0, x.shape[place] - 1)], place)
    return result.flip(place) if reverse else result


@operator("Cast", only={"saturate": lambda _: True, "round_mode": lambda _: True})
def cast(x: Tensor, *, to: torch.dtype) -> Tensor:
    """Converts a value to another type."""
    return x.to(to)


@operator("CastLike", fixed=[1], only={"saturate": lambda _: True, "round_mode": lambda _: True})
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """Converts a value to the type of another one."""
    return x.to(like.dtype)


def _inside(positions: Tensor, size: int, mode: str) -> Tensor:
    """Finds the positions within an axis whose entries stand for those at positions outside it."""
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap" or size == 1:
        return positions % size
    period = 2 * (size - 1)
    return size - 1 - (positions % period - (size - 1)).abs()
