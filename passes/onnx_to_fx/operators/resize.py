"""ONNX operators that sample between entries, as torch functions."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import (
    Floats,
    Ints,
    Unsupported,
    make_membership_test,
    operator,
    read_floats,
    read_ints,
)

COORDINATES = make_membership_test(
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn"
)
GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}  # by ONNX's names from opset 20 on
Taps = list[tuple[Tensor, Tensor | None]]  # positions of an axis, and their weights; None where 1


@operator(
    *("Resize",),
    since=11,
    literals=[1, 2, 3],
    only={
        "antialias": make_membership_test(0),
        "coordinate_transformation_mode": COORDINATES,
        "extrapolation_value": lambda _: True,  # used only by a coordinate mode that is not covered
        "mode": make_membership_test("nearest", "linear", "cubic"),
    },
)
def resize(
    x: Tensor,
    roi: Floats | None = None,  # noqa: ARG001 (used only by a coordinate mode that is not covered)
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Gives axes other sizes. Entries are taken or interpolated along one axis after the other."""
    places = [axis % x.dim() for axis in (range(x.dim()) if axes is None else axes)]
    before = [x.shape[axis] for axis in places]
    wanted = [] if sizes is None else read_ints(sizes)
    if wanted:
        after, factors = _sized(before, wanted, keep_aspect_ratio_policy)
    else:
        factors = read_floats(scales if scales is not None else ())
        # In float32, as ONNX Runtime multiplies: 10 by a stored 0.7 are 7 there, and 6.9999998 in more digits
        exact = [float(np.float32(size) * np.float32(factor)) for size, factor in zip(before, factors, strict=True)]
        after = [math.floor(size) for size in exact]
        if coordinate_transformation_mode == "align_corners" and not np.allclose(after, exact, atol=1e-4):
            raise Unsupported("align_corners of a fractional size")  # where ONNX Runtime departs from the definition
    for axis, size, factor in zip(places, after, factors, strict=True):
        if size == x.shape[axis] and factor == 1:
            continue
        at = _coordinates(x.shape[axis], size, factor, coordinate_transformation_mode, x.device)
        if mode == "nearest":
            taps: Taps = [(_nearest(at, nearest_mode), None)]
        elif mode == "linear":
            taps = _linear(at)
        else:
            taps = _cubic(at, cubic_coeff_a)
        x = _mixed(x, axis, taps, exclude_outside=bool(exclude_outside))
    return x


@operator("Upsample", since=9, literals=[1], only={"mode": make_membership_test("nearest", "linear")})
@operator("Resize", since=10, literals=[1], only={"mode": make_membership_test("nearest", "linear")})
def resize_by_scales(x: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    """Does the same as `resize` before opset 11, where coordinates are multiples of the step."""
    return resize(x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@operator("Upsample", since=7, only={"mode": make_membership_test("nearest", "linear")})
def upsample_by_attribute(x: Tensor, *, scales: Sequence[float], mode: str = "nearest") -> Tensor:
    """Does the same as `resize_by_scales`, with an attribute as before opset 9."""
    return resize_by_scales(x, scales, mode=mode)


@operator(
    *("GridSample",),
    only={
        "mode": make_membership_test("bilinear", "linear", "nearest", "bicubic", "cubic"),
        "padding_mode": make_membership_test("zeros", "border", "reflection"),
    },
)
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    """Samples at the coordinates of a grid, which run from −1 to 1 along every spatial axis."""
    return F.grid_sample(x, grid, GRID_MODES.get(mode, mode), padding_mode, bool(align_corners))


def _sized(before: list[int], wanted: list[int], policy: str) -> tuple[list[int], list[float]]:
    """Finds the new size and the factor of each axis."""
    factors = [size / old for size, old in zip(wanted, before, strict=True)]
    if policy == "stretch":
        return wanted, factors
    common = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(common * old + 0.5) for old in before], [common] * len(before)


def _coordinates(before: int, after: int, factor: float, mode: str, device: torch.device) -> Tensor:
    """Finds the place in the old axis of each new entry."""
    at = torch.arange(after, dtype=torch.float32, device=device)
    match mode:
        case "align_corners":
            return at * (before - 1) / (after - 1) if after > 1 else torch.zeros_like(at)
        case "asymmetric":
            return at / factor
        case "tf_half_pixel_for_nn":
            return (at + 0.5) / factor
        case "pytorch_half_pixel" if after == 1:
            return torch.zeros_like(at)
        case "half_pixel_symmetric":
            shift = before / 2 * (1 - after / (before * factor))
            return shift + (at + 0.5) / factor - 0.5
    return (at + 0.5) / factor - 0.5


def _nearest(at: Tensor, mode: str) -> Tensor:
    match mode:
        case "round_prefer_floor":
            at = torch.ceil(at - 0.5)
        case "round_prefer_ceil":
            at = torch.floor(at + 0.5)
        case "floor":
            at = torch.floor(at)
        case "ceil":
            at = torch.ceil(at)
        case _:
            raise Unsupported(f"nearest_mode = {mode}")
    return at.long()


def _linear(at: Tensor) -> Taps:
    first = torch.floor(at)
    share = at - first
    return [(first.long(), 1 - share), (first.long() + 1, share)]


def _cubic(at: Tensor, a: float) -> Taps:
    first = torch.floor(at)
    taps: Taps = []
    for step in range(-1, 3):
        d = (at - first - step).abs()
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        taps.append((first.long() + step, torch.where(d <= 1, near, far)))
    return taps


def _mixed(x: Tensor, axis: int, taps: Taps, *, exclude_outside: bool) -> Tensor:
    """Takes the weighted sum of entries. Those outside the axis are the outermost one, or count for nothing."""
    size, shape = x.shape[axis], [1] * x.dim()
    shape[axis] = -1
    if exclude_outside:
        inside = [(at, weight * ((at >= 0) & (at < size))) for at, weight in taps if weight is not None]
        total = torch.stack([weight for _, weight in inside]).sum(0)
        taps = [(at, weight / total) for at, weight in inside] or taps
    result = None
    for at, weight in taps:
        part = x.index_select(axis, at.clamp(0, size - 1))
        part = part if weight is None else part * weight.to(x.dtype).reshape(shape)
        result = part if result is None else result + part
    if result is None:
        raise AssertionError("an axis is sampled without taps")
    return result
