"""ONNX operators over windows of spatial axes, convolutions and pooling, as torch functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.graph.padding import Margins, find_margins, halve
from prox24_export.passes.onnx_to_fx.table import Unsupported, are_all_ones, make_membership_test, operator

AUTO_PAD = make_membership_test("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")
MAX_POOL: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution or a pool.

    Attributes:
        kernel: Number of entries of a window along each spatial axis.
        strides: Distance between windows along each spatial axis.
        dilations: Distance between the entries of a window along each spatial axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Sequence[int], strides: Sequence[int] | None, dilations: Sequence[int] | None) -> "Windows":
        """Windows by the attributes of a node, which are 1 where they are left out."""
        ones = (1,) * len(kernel)
        return cls(tuple(kernel), tuple(strides or ones), tuple(dilations or ones))

    @property
    def spans(self) -> list[int]:
        """The number of positions from a window's first entry to its last, both included, along each spatial axis."""
        return [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]

    def margins(self, sizes: Sequence[int], pads: Sequence[int] | None, auto_pad: str) -> Margins:
        """The padding (before, after) along each spatial axis of data of these sizes."""
        return find_margins(sizes, self.strides, self.spans, pads, auto_pad)

    def clipped(self, sizes: Sequence[int], margins: Margins) -> "Windows":
        """Windows that end with the data and its padding, along axes where the only one reaches further.

        A pool over everything is often written with a kernel that is larger than any data. Entries beyond are not
        counted, so that nothing needs to be stored for them.
        """
        covered = [size + before + after for size, (before, after) in zip(sizes, margins, strict=True)]
        axes = zip(self.kernel, self.dilations, covered, strict=True)
        return replace(self, kernel=tuple(min(size, there) if step == 1 else size for size, step, there in axes))

    def beyond(self, sizes: Sequence[int], margins: Margins) -> Margins:
        """Further padding that completes the last window, which must begin within the data or the padding before it."""
        result = []
        for size, (before, after), span, stride in zip(sizes, margins, self.spans, self.strides, strict=True):
            covered = size + before + after
            count = math.ceil((covered - span) / stride) + 1
            if (count - 1) * stride >= size + before:
                count -= 1
            result.append((0, max(0, (count - 1) * stride + span - covered)))
        return result

    def entries(self, x: Tensor) -> Tensor:
        """A view [N, C, windows…, entries…] of the data, with an axis of each kind for every spatial axis."""
        for axis, (span, stride, step) in enumerate(zip(self.spans, self.strides, self.dilations, strict=True), 2):
            x = x.unfold(axis, span, stride)[..., ::step]
        return x


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
    """Convolves [N, C, spatial axes] with [M, C / group, kernel]."""
    rank, windows = x.dim() - 2, Windows.of(w.shape[2:], strides, dilations)
    margins = windows.margins(x.shape[2:], pads, auto_pad)
    if any(before != after for before, after in margins):
        x, margins = _padded(x, margins), [(0, 0)] * rank
    padding = [before for before, _ in margins]
    return torch.convolution(x, w, b, windows.strides, padding, windows.dilations, False, [0] * rank, group)


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
    """Computes the transpose of a convolution with [C, M / group, kernel]."""
    rank, windows = x.dim() - 2, Windows.of(w.shape[2:], strides, dilations)
    beyond = output_padding or (0,) * rank
    axes = zip(windows.strides, x.shape[2:], windows.spans, strict=True)
    full = [stride * (size - 1) + span for stride, size, span in axes]
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [size * stride for size, stride in zip(x.shape[2:], windows.strides, strict=True)]
    if output_shape is not None:
        totals = [size + more - wanted for size, more, wanted in zip(full, beyond, output_shape[-rank:], strict=True)]
        margins = [halve(total, more_after=auto_pad == "SAME_UPPER") for total in totals]
    else:
        margins = windows.margins(x.shape[2:], pads, auto_pad)
    if not any(beyond) and all(before == after >= 0 for before, after in margins):
        padding = [before for before, _ in margins]
        return torch.convolution(x, w, b, windows.strides, padding, windows.dilations, True, beyond, group)
    y = torch.convolution(x, w, None, windows.strides, [0] * rank, windows.dilations, True, [0] * rank, group)
    y = _padded(y, [(-before, more - after) for (before, after), more in zip(margins, beyond, strict=True)])
    return y if b is None else y + b.reshape(-1, *[1] * rank)


@operator("MaxPool", only={"auto_pad": AUTO_PAD, "storage_order": make_membership_test(0)})
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
    """Takes the largest entry of every window."""
    rank, windows = x.dim() - 2, Windows.of(kernel_shape, strides, dilations)
    margins = windows.margins(x.shape[2:], pads, auto_pad)
    if ceil_mode:
        windows = windows.clipped(x.shape[2:], margins)
        margins = _joined(margins, windows.beyond(x.shape[2:], margins))
    padding = [before for before, _ in margins]
    fits = all(before == after <= size // 2 for (before, after), size in zip(margins, windows.kernel, strict=True))
    if not (fits and x.is_floating_point()):
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, padding = _padded(x, margins, lowest), [0] * rank
    if not x.is_floating_point():
        return windows.entries(x).amax(tuple(range(-rank, 0)))
    return _of_rank(MAX_POOL, rank)(x, windows.kernel, windows.strides, padding, windows.dilations)


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
    """Takes the mean of every window. Padding is counted only where that is asked for."""
    rank, windows = x.dim() - 2, Windows.of(kernel_shape, strides, dilations)
    margins = windows.margins(x.shape[2:], pads, auto_pad)
    plain = not ceil_mode and all(before == after for before, after in margins) and are_all_ones(windows.dilations)
    if plain and all(2 * before <= size for (before, _), size in zip(margins, kernel_shape, strict=True)):
        padding = [before for before, _ in margins]
        pool = _of_rank(AVERAGE_POOL, rank)
        return pool(x, windows.kernel, windows.strides, padding, False, bool(count_include_pad))
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counted = _padded(counted, margins, 1 if count_include_pad else 0)
    if ceil_mode:
        windows = windows.clipped(x.shape[2:], margins)
        beyond = windows.beyond(x.shape[2:], margins)
        counted, margins = _padded(counted, beyond), _joined(margins, beyond)
    x = _padded(x, margins)
    axes = tuple(range(-rank, 0))
    sums, counts = (windows.entries(values).sum(axes) for values in (x, counted))
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
    """Takes the p-norm of every window."""
    rank, windows = x.dim() - 2, Windows.of(kernel_shape, strides, dilations)
    margins = windows.margins(x.shape[2:], pads, auto_pad)
    if ceil_mode:
        windows = windows.clipped(x.shape[2:], margins)
        margins = _joined(margins, windows.beyond(x.shape[2:], margins))
    entries = windows.entries(_padded(x, margins))
    norm: Tensor = torch.linalg.vector_norm(entries, p, tuple(range(-rank, 0)))
    return norm


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Takes the mean over all spatial axes."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Takes the largest entry over all spatial axes."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool", since=2)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """Takes the p-norm over all spatial axes."""
    norm: Tensor = torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)
    return norm


def _joined(inner: Margins, outer: Margins) -> Margins:
    return [(a + c, b + d) for (a, b), (c, d) in zip(inner, outer, strict=True)]


def _padded(x: Tensor, margins: Margins, value: float = 0.0) -> Tensor:
    if not any(before or after for before, after in margins):
        return x
    return F.pad(x, [amount for pair in reversed(margins) for amount in pair], value=value)


def _of_rank(functions: Mapping[int, Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    try:
        return functions[rank]
    except KeyError:
        raise Unsupported(f"{rank} spatial axes") from None
