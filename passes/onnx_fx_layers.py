"""ONNX operators with weights, and pooling and normalisation between them, as torch functions."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_fx_table import Unsupported, all_ones, one_of, operator

AUTO_PAD = one_of("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")
MAX_POOL: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
Pads = list[tuple[int, int]]  # by spatial axis: before, after

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
    """α·op(A)·op(B) + β·C."""
    left, right = a.T if transA else a, b.T if transB else b
    if c is not None and a.is_floating_point():
        return torch.addmm(c, left, right, alpha=alpha, beta=beta)
    product = left @ right
    product = product if alpha == 1 else (alpha * product).to(a.dtype)
    return product if c is None else product + (c if beta == 1 else (beta * c).to(a.dtype))


@operator("Einsum")
def einsum(*operands: Tensor, equation: str) -> Tensor:
    """A sum of products by index letters."""
    return torch.einsum(equation, *operands)


@operator("Conv", only={"auto_pad": AUTO_PAD, "kernel_shape": lambda _: True})
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """A convolution of [N, C, spatial axes] by [M, C / group, kernel]."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    margins = _pads(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
    if any(before != after for before, after in margins):
        x, margins = _padded(x, margins), [(0, 0)] * rank
    padding = [before for before, _ in margins]
    return torch.convolution(x, w, b, strides, padding, dilations, False, [0] * rank, group)


@operator("ConvTranspose", only={"auto_pad": AUTO_PAD, "kernel_shape": lambda _: True})
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The transpose of a convolution by [C, M / group, kernel]."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    beyond = output_padding or (0,) * rank
    spans = [_span(size, dilation) for size, dilation in zip(w.shape[2:], dilations, strict=True)]
    full = [stride * (size - 1) + span for stride, size, span in zip(strides, x.shape[2:], spans, strict=True)]
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    if output_shape is not None:
        totals = [size + more - wanted for size, more, wanted in zip(full, beyond, output_shape[-rank:], strict=True)]
        margins = [_halves(total, more_after=auto_pad == "SAME_UPPER") for total in totals]
    else:
        margins = _pads(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
    if not any(beyond) and all(before == after >= 0 for before, after in margins):
        padding = [before for before, _ in margins]
        return torch.convolution(x, w, b, strides, padding, dilations, True, beyond, group)
    y = torch.convolution(x, w, None, strides, [0] * rank, dilations, True, [0] * rank, group)
    y = _padded(y, [(-before, more - after) for (before, after), more in zip(margins, beyond, strict=True)])
    return y if b is None else y + b.reshape(-1, *[1] * rank)


@operator("MaxPool", only={"auto_pad": AUTO_PAD, "storage_order": one_of(0)})
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The largest entry of every window."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    margins = _pads(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    if ceil_mode:
        margins = _rounded_up(x.shape[2:], kernel_shape, strides, dilations, margins)
    padding = [before for before, _ in margins]
    fits = all(before == after <= size // 2 for (before, after), size in zip(margins, kernel_shape, strict=True))
    if not (fits and x.is_floating_point()):
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, padding = _padded(x, margins, lowest), [0] * rank
    if not x.is_floating_point():
        return _windows(x, kernel_shape, strides, dilations).amax(tuple(range(-rank, 0)))
    return _of_rank(MAX_POOL, rank)(x, tuple(kernel_shape), tuple(strides), padding, tuple(dilations))


@operator("AveragePool", since=7, only={"auto_pad": AUTO_PAD})
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The mean of every window, padding counted only where asked."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    margins = _pads(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    plain = not ceil_mode and all(before == after for before, after in margins) and all_ones(dilations)
    if plain and all(2 * before <= size for (before, _), size in zip(margins, kernel_shape, strict=True)):
        padding = [before for before, _ in margins]
        pool = _of_rank(AVERAGE_POOL, rank)
        return pool(x, kernel_shape, strides, padding, False, bool(count_include_pad))
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counted = _padded(counted, margins, 1 if count_include_pad else 0)
    x = _padded(x, margins)
    if ceil_mode:
        beyond = _rounded_up(x.shape[2:], kernel_shape, strides, dilations, [(0, 0)] * rank, margins)
        x, counted = _padded(x, beyond), _padded(counted, beyond)
    axes = tuple(range(-rank, 0))
    sums, counts = (_windows(values, kernel_shape, strides, dilations).sum(axes) for values in (x, counted))
    return sums / counts


@operator("LpPool", only={"auto_pad": AUTO_PAD})
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The p-norm of every window."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    margins = _pads(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    if ceil_mode:
        margins = _rounded_up(x.shape[2:], kernel_shape, strides, dilations, margins)
    windows = _windows(_padded(x, margins), kernel_shape, strides, dilations)
    norm: Tensor = torch.linalg.vector_norm(windows, p, tuple(range(-rank, 0)))
    return norm


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """The mean over all spatial axes."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """The largest entry over all spatial axes."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool", since=2)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """The p-norm over all spatial axes."""
    norm: Tensor = torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)
    return norm


# Statistics are measured, not learnt: no gradient reaches them.
@operator(
    *("BatchNormalization",),
    since=7,
    fixed=[3, 4],
    only={"momentum": lambda _: True, "spatial": one_of(1), "training_mode": one_of(0)},
)
def batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Channels of [N, C, …] shifted and scaled by stored statistics."""
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


@operator("LayerNormalization", only={"stash_type": one_of(torch.float32)})
def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> tuple[Tensor, ...]:
    """Mean 0 and deviation 1 over the axes from `axis` on, scaled and shifted; and, where asked, 1 / deviation."""
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


@operator("RMSNormalization", "SimplifiedLayerNormalization", only={"stash_type": one_of(torch.float32)})
def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Entries over their root mean square over the axes from `axis` on, scaled."""
    axis %= x.dim()
    return F.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


@operator("InstanceNormalization", since=6)
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Mean 0 and deviation 1 over the spatial axes, scaled and shifted by channel."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@operator("GroupNormalization", since=21, only={"stash_type": one_of(torch.float32)})
def group_norm(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Mean 0 and deviation 1 over groups of channels and space, scaled and shifted by channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("GroupNormalization", since=18)
def group_norm_by_group(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """The same, scaled and shifted by group, as before opset 21."""
    each = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


@operator("LRN")
def local_response_norm(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Entries over (bias + α/size · sum of squares over neighbouring channels)^β."""
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(x.square().movedim(1, -1), (before, after))
    return x / (bias + alpha / size * squares.unfold(-1, size, 1).sum(-1)).pow(beta).movedim(-1, 1)


def _pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> Pads:
    rank = len(sizes)
    if auto_pad.startswith("SAME"):
        axes = zip(sizes, kernel, strides, dilations, strict=True)
        totals = [
            max(0, (math.ceil(size / stride) - 1) * stride + _span(window, dilation) - size)
            for size, window, stride, dilation in axes
        ]
        return [_halves(total, more_after=auto_pad == "SAME_UPPER") for total in totals]
    if pads is None or auto_pad == "VALID":
        return [(0, 0)] * rank
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _rounded_up(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    margins: Pads,
    inside: Pads | None = None,
) -> Pads:
    """Padding with which the last window, begun inside the data or before it, is whole.

    `inside` is padding that `sizes` holds already.
    """
    result = []
    for axis, (before, after) in enumerate(margins):
        span, stride = _span(kernel[axis], dilations[axis]), strides[axis]
        covered = sizes[axis] + before + after
        starts = sizes[axis] + before - (inside[axis][1] if inside else 0)
        count = math.ceil((covered - span) / stride) + 1
        if (count - 1) * stride >= starts:
            count -= 1
        result.append((before, after + max(0, (count - 1) * stride + span - covered)))
    return result


def _windows(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """[N, C, windows by axis, entries by axis]."""
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
        x = x.unfold(axis, _span(size, dilation), stride)[..., ::dilation]
    return x


def _padded(x: Tensor, margins: Pads, value: float = 0.0) -> Tensor:
    if not any(before or after for before, after in margins):
        return x
    return F.pad(x, [amount for pair in reversed(margins) for amount in pair], value=value)


def _span(size: int, dilation: int) -> int:
    return (size - 1) * dilation + 1


def _halves(total: int, *, more_after: bool) -> tuple[int, int]:
    small, large = total // 2, total - total // 2
    return (small, large) if more_after else (large, small)


def _of_rank(functions: Mapping[int, Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    try:
        return functions[rank]
    except KeyError:
        raise Unsupported(f"{rank} spatial axes") from None
