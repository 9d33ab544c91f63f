"""ONNX operators that combine entries along axes, as torch functions."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import Ints, make_membership_test, operator, read_ints

REDUCTIONS = {
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceSum": "sum",
    "ReduceSumSquare": "sum_square",
}


def reduce(
    x: Tensor, axes: Ints | None = None, *, how: str, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Reduces all entries along some axes to one number, or along all axes where none is given."""
    places = [] if axes is None else sorted(axis % x.dim() for axis in read_ints(axes))
    if not places and noop_with_empty_axes:
        return _combined(x.unsqueeze(0), [0], how, keepdims=False)
    return _combined(x, places or list(range(x.dim())), how, keepdims=bool(keepdims))


def reduce_by_attribute(x: Tensor, *, how: str, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
    """Does the same as `reduce`, in opsets in which the axes are an attribute."""
    return reduce(x, axes, how=how, keepdims=keepdims)


for _name, _how in REDUCTIONS.items():
    operator(_name, since=13 if _how == "sum" else 18, literals=[1], extra={"how": _how})(reduce)
    operator(_name, extra={"how": _how})(reduce_by_attribute)


@operator("ArgMax", detached=True, extra={"largest": True})
@operator("ArgMin", detached=True, extra={"largest": False})
def arg_extreme(x: Tensor, *, largest: bool, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Finds the position of the first (or last) largest or smallest entry along an axis."""
    pick = torch.argmax if largest else torch.argmin
    if not select_last_index:
        return pick(x, axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - pick(x.flip(axis), axis, keepdim=bool(keepdims))


@operator("TopK", since=11, literals=[1], only={"sorted": lambda _: True})
def top_k(
    x: Tensor,
    k: Ints,
    *,
    axis: int = -1,
    largest: int = 1,
    outputs: int = 2,
) -> tuple[Tensor, ...]:
    """Finds the `k` largest or smallest entries along an axis, in order, and their positions.

    Among equal entries those that come first are taken.
    """
    (count,) = read_ints(k)
    values, positions = torch.sort(x, stable=True, dim=axis, descending=bool(largest))
    return (values.narrow(axis, 0, count), positions.narrow(axis, 0, count))[:outputs]


@operator("TopK", since=10, literals=[1])
def top_k_largest(x: Tensor, k: Ints, *, axis: int = -1, outputs: int = 2) -> tuple[Tensor, ...]:
    """Finds the `k` largest entries, as in opset 10."""
    return top_k(x, k, axis=axis, outputs=outputs)


@operator("Softmax", since=13, extra={"how": "softmax"})
@operator("LogSoftmax", since=13, extra={"how": "log_softmax"})
@operator("Hardmax", since=13, extra={"how": "hardmax"})
def normalised(x: Tensor, *, how: str, axis: int = -1) -> Tensor:
    """Computes softmax, its logarithm, or 1 at the first largest entry and 0 elsewhere, along an axis."""
    match how:
        case "softmax":
            return F.softmax(x, axis)
        case "log_softmax":
            return F.log_softmax(x, axis)
    return F.one_hot(torch.argmax(x, axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)


@operator("Softmax", extra={"how": "softmax"})
@operator("LogSoftmax", extra={"how": "log_softmax"})
@operator("Hardmax", extra={"how": "hardmax"})
def normalised_together(x: Tensor, *, how: str, axis: int = 1) -> Tensor:
    """Does the same as `normalised` over all axes from `axis` on together, as before opset 13."""
    axis = axis % x.dim() if x.dim() else 0
    return normalised(x.flatten(axis), how=how, axis=-1).reshape(x.shape)


@operator("LpNormalization", only={"p": make_membership_test(1, 2)})
def lp_normalised(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divides entries by their norm along an axis. They are 0 where the norm is 0."""
    norm = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("MeanVarianceNormalization")
def mean_variance_normalised(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """Gives some axes mean 0 and deviation 1."""
    centred = x - x.mean(tuple(axes), keepdim=True)
    return centred / (centred.square().mean(tuple(axes), keepdim=True).sqrt() + 1e-9)


def _combined(x: Tensor, axes: list[int], how: str, *, keepdims: bool) -> Tensor:
    if not x.dim():  # a scalar has one entry, but no axis to combine it along
        return _combined(x.reshape(1), [0], how, keepdims=False)
    return COMBINATIONS[how](x, axes, keepdims).to(x.dtype)


def _norm(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.double()
    norm: Tensor = torch.linalg.vector_norm(wide, 2, axes, keepdims)
    return norm


def _mean(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.double()
    return wide.mean(axes, keepdims)


def _product(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    for axis in reversed(axes):  # torch multiplies along one axis at a time
        x = x.prod(axis, keepdims)
    return x


COMBINATIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "l1": lambda x, axes, keepdims: x.abs().sum(axes, keepdims),
    "l2": _norm,
    "log_sum": lambda x, axes, keepdims: x.sum(axes, keepdims).log(),
    "log_sum_exp": torch.logsumexp,
    "max": torch.amax,
    "mean": _mean,
    "min": torch.amin,
    "prod": _product,
    "sum": lambda x, axes, keepdims: x.sum(axes, keepdims),
    "sum_square": lambda x, axes, keepdims: x.square().sum(axes, keepdims),
}
