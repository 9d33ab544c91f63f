"""ONNX matrix products and normalisations, as torch functions."""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import make_membership_test, operator

operator("MatMul")(torch.matmul)


@operator("Gemm", since=7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 (ONNX's name)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Computes α·op(A)·op(B) + β·C."""
    left, right = a.T if transA else a, b.T if transB else b
    if c is not None and a.is_floating_point():
        return torch.addmm(c, left, right, alpha=alpha, beta=beta)
    product = left @ right
    product = product if alpha == 1 else (alpha * product).to(a.dtype)
    return product if c is None else product + (c if beta == 1 else (beta * c).to(a.dtype))


@operator("Einsum")
def einsum(*operands: Tensor, equation: str) -> Tensor:
    """Computes a sum of products, by the letters of indices."""
    return torch.einsum(equation, *operands)


# Statistics are measured, not learnt: no gradient reaches them.
@operator(
    *("BatchNormalization",),
    since=7,
    fixed=[3, 4],
    only={"momentum": lambda _: True, "spatial": make_membership_test(1), "training_mode": make_membership_test(0)},
)
def batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Shifts and scales the channels of [N, C, …] by stored statistics."""
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


@operator("LayerNormalization", only={"stash_type": make_membership_test(torch.float32)})
def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> tuple[Tensor, ...]:
    """Gives the axes from `axis` on mean 0 and deviation 1, and scales and shifts them.

    Where they are asked for, the mean and 1 / deviation are returned, too.
    """
    axis %= x.dim()
    sizes = x.shape[axis:]
    if scale.shape == sizes and (bias is None or bias.shape == sizes):
        y = F.layer_norm(x, sizes, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, sizes, eps=epsilon) * scale
        y = y if bias is None else y + bias
    if outputs == 1:
        return (y,)
    axes = tuple(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    return (y, mean, torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon))[:outputs]


@operator("RMSNormalization", "SimplifiedLayerNormalization", only={"stash_type": make_membership_test(torch.float32)})
def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Divides entries by their root mean square over the axes from `axis` on, and scales them."""
    axis %= x.dim()
    return F.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


@operator("InstanceNormalization", since=6)
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Gives the spatial axes mean 0 and deviation 1, and scales and shifts them by channel."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@operator("GroupNormalization", since=21, only={"stash_type": make_membership_test(torch.float32)})
def group_norm(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Gives groups of channels mean 0 and deviation 1 over space, too, and scales and shifts them by channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("GroupNormalization", since=18)
def group_norm_by_group(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Does the same as `group_norm`, but scales and shifts by group, as before opset 21."""
    each = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


@operator("LRN")
def local_response_norm(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Divides entries by (bias + α/size · sum of squares over neighbouring channels)^β."""
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(x.square().movedim(1, -1), (before, after))
    return x / (bias + alpha / size * squares.unfold(-1, size, 1).sum(-1)).pow(beta).movedim(-1, 1)
