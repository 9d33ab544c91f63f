"""ONNX operators that work entry by entry, as torch functions."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import Floats, Unsupported, make_membership_test, operator, read_number

WITHOUT_ATTRIBUTES: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": torch.add,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Where": torch.where,
}
WITHOUT_GRADIENT: dict[str, Callable[..., Tensor]] = {
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Ceil": torch.ceil,
    "Equal": torch.eq,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Round": torch.round,
    "Sign": torch.sign,
    "Xor": torch.logical_xor,
}
for _name, _function in WITHOUT_ATTRIBUTES.items():
    operator(_name)(_function)
for _name, _function in WITHOUT_GRADIENT.items():
    operator(_name, detached=True)(_function)


@operator("Identity")
def identity(x: Tensor) -> Tensor:
    """Returns the value itself."""
    return x


@operator("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """Divides `a` by `b`. A quotient of integers is rounded towards zero."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


@operator("Mod", detached=True)
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Computes the remainder, with the divisor's sign, or with the dividend's where `fmod` is set."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Pow", literals=[1])
def power(a: Tensor, b: Floats) -> Tensor:
    """Raises `a` to the power `b`, in the type of `a`."""
    exponent = b if isinstance(b, Tensor | float | int) else torch.tensor(b, device=a.device)
    return torch.pow(a, exponent).to(a.dtype)


@operator("BitShift", detached=True)
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Moves the bits of integers to the left or to the right."""
    return a << b if direction == "LEFT" else a >> b


@operator("Max")
def maximum(*values: Tensor) -> Tensor:
    """Takes the largest of several values entry by entry, broadcast."""
    return functools.reduce(torch.maximum, values)


@operator("Min")
def minimum(*values: Tensor) -> Tensor:
    """Takes the smallest of several values entry by entry, broadcast."""
    return functools.reduce(torch.minimum, values)


@operator("Sum")
def add_all(*values: Tensor) -> Tensor:
    """Adds several values entry by entry, broadcast."""
    return functools.reduce(torch.add, values)


@operator("Mean")
def mean_of_all(*values: Tensor) -> Tensor:
    """Takes the mean of several values entry by entry, broadcast."""
    return add_all(*values) / len(values)


@operator("Clip", since=11, literals=[1, 2])
def clip(x: Tensor, low: Floats | None = None, high: Floats | None = None) -> Tensor:
    """Limits entries to bounds, each of which may be left out."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        x = x if low is None else torch.maximum(x, torch.as_tensor(low, dtype=x.dtype, device=x.device))
        return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype, device=x.device))
    return clip_by_attributes(
        x, min=None if low is None else read_number(low), max=None if high is None else read_number(high)
    )


@operator("Clip", since=6)
def clip_by_attributes(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002 (ONNX's)
    """Limits entries to bounds that are attributes, as before opset 11."""
    if min is None and max is None:
        return x
    if min is not None and max is not None and min <= max and x.is_floating_point():
        return F.hardtanh(x, min, max)  # the same values; its gradient takes one pass where that of clamp takes five
    return torch.clamp(x, min, max)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Computes max(0, x) + min(0, α(exp(x/α) − 1))."""
    return F.celu(x, alpha)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Computes x where it is positive, otherwise α(exp(x) − 1)."""
    return F.elu(x, alpha)


@operator("Gelu", since=20, only={"approximate": make_membership_test("none", "tanh")})
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Computes x·Φ(x), or its approximation by tanh."""
    return F.gelu(x, approximate=approximate)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Computes min(1, max(0, αx + β))."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """Computes x·min(1, max(0, x/6 + 1/2))."""
    return F.hardswish(x)


@operator("IsInf", detached=True)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Tells which entries are infinite, with a sign that is asked for."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_positive:
        found = found | (x == math.inf)
    return found | (x == -math.inf) if detect_negative else found


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Computes x where it is positive, otherwise αx."""
    return F.leaky_relu(x, alpha)


@operator("Mish")
def mish(x: Tensor) -> Tensor:
    """Computes x·tanh(log(1 + exp(x)))."""
    return F.mish(x)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Computes x where it is positive, otherwise x·slope, with the slope broadcast to x."""
    return torch.where(x < 0, x * slope, x)


@operator("Selu")
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """Computes γ times the ELU with α."""
    below = torch.exp(x.clamp(max=0))  # of large x it would be infinite, and its gradient NaN though it is not taken
    return gamma * torch.where(x > 0, x, alpha * (below - 1))


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Moves entries beyond ±λ towards zero by the bias; all others become 0."""
    moved = torch.where(x > lambd, x - bias, torch.where(x < -lambd, x + bias, 0))
    return moved.to(x.dtype)


@operator("Softplus")
def softplus(x: Tensor) -> Tensor:
    """Computes log(1 + exp(x))."""
    return F.softplus(x)


@operator("Softsign")
def softsign(x: Tensor) -> Tensor:
    """Computes x/(1 + |x|)."""
    return F.softsign(x)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Computes x·σ(αx)."""
    return x * torch.sigmoid(alpha * x)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Computes x where it exceeds α, otherwise 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Dropout", since=12, literals=[1, 2], only={"seed": lambda _: True})
def dropout(
    x: Tensor,
    ratio: Floats | None = None,  # noqa: ARG001 (ONNX's order)
    training: Floats | None = None,
    *,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Returns the value itself, as in inference, and a mask that keeps all entries."""
    if training is not None and read_number(training):
        raise Unsupported("training_mode")
    return (x, torch.ones_like(x, dtype=torch.bool))[:outputs]


@operator("Dropout", since=7, only={"ratio": lambda _: True})
def dropout_by_attribute(x: Tensor, *, outputs: int = 1) -> tuple[Tensor, ...]:
    """Does the same as `dropout`, with attributes as before opset 12."""
    return dropout(x, outputs=outputs)
