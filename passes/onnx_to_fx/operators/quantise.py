"""ONNX operators that quantise and convert back, as torch functions. The pair passes gradients through its rounding."""

import torch
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import Unsupported, make_membership_test, operator

INTEGERS = {torch.int8, torch.uint8, torch.int16, torch.int32}


class _Round(torch.autograd.Function):
    """Rounds half to even; its gradient is that of the identity."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004 (torch's signature)
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


@operator(
    *("QuantizeLinear",),
    since=10,
    detached=True,
    only={
        "block_size": make_membership_test(0),
        "saturate": make_membership_test(1),
        "precision": make_membership_test(0),
    },
)
def quantise(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Computes round(x / scale) + zero, limited to the range of the integer type."""
    return _quantised(x, scale, zero, axis, output_dtype).to(_type(zero, output_dtype))


@operator(
    "DequantizeLinear",
    since=10,
    fixed=[2],
    only={"block_size": make_membership_test(0), "output_dtype": make_membership_test(None)},
)
def dequantise(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """Computes (x − zero) · scale."""
    if x.is_floating_point():
        raise Unsupported("floating-point codes")
    steps = x.to(torch.int32) if zero is None else x.to(torch.int32) - _along(zero, x, axis).to(torch.int32)
    return steps.to(scale.dtype) * _along(scale, x, axis)


# `pair_quantisation` makes this of a DequantizeLinear behind a QuantizeLinear. No ONNX operator has this name.
@operator("QuantizeLinear+DequantizeLinear", fixed=[2, 4])
def fake_quantise(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    scale_back: Tensor,
    zero_back: Tensor | None = None,
    *,
    axis: int = 1,
    axis_back: int = 1,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Quantises a value and converts it back.

    The gradient passes straight through the rounding. It is 0 where the limit of the integer type was reached.
    """
    codes = _quantised(x, scale, zero, axis, output_dtype)
    steps = codes if zero_back is None else codes - _along(zero_back, x, axis_back)
    return steps * _along(scale_back, x, axis_back)


def _quantised(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, output_dtype: torch.dtype | None) -> Tensor:
    limits = torch.iinfo(_type(zero, output_dtype))
    codes: Tensor = _Round.apply(x / _along(scale, x, axis))  # type: ignore[no-untyped-call]
    codes = codes if zero is None else codes + _along(zero, x, axis)
    return codes.clamp(limits.min, limits.max)


def _type(zero: Tensor | None, output_dtype: torch.dtype | None) -> torch.dtype:
    found = zero.dtype if zero is not None else output_dtype or torch.uint8
    if found not in INTEGERS:
        raise Unsupported(f"codes of type {found}")
    return found


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Shapes values to be broadcast to `x`: one for all of it, or one for every position of an axis."""
    if values.numel() == 1:
        return values.reshape(())
    if values.dim() != 1:
        raise Unsupported("blocks")
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)
