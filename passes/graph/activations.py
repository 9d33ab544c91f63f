"""The views by which an activation becomes the matrix `X` [tokens, K] whose Gram matrix is wanted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from jaxtyping import Float
from torch import Tensor

from prox24_export.passes.graph.padding import find_margins

Activation = npt.NDArray[Any] | Tensor
CHUNK_VALUES = 1 << 22  # entries of X held at once: 16 MB of float32
CHUNK_VALUES_ON_GPU = 1 << 26  # 256 MB: to add the product of a chunk to K² sums takes a GPU as long as the product
CHUNK_TOKENS = 1 << 13  # rows whose products are summed in float32


@dataclass(frozen=True)
class Rows:
    """The view of MatMul and Gemm: K is the last axis of the activation, or the one before it.

    Attributes:
        k_axis: The axis of K: -1 for `X @ Wᵀ`, -2 where the weight is the left operand.
    """

    k_axis: int = -1

    def chunks(self, activation: Activation) -> Iterator[Float[Tensor, "tokens K"]]:
        """Yields `X` in pieces of at most `CHUNK_VALUES` entries, or as many as a GPU takes at once.

        They are float32, or float64 where the activation is float64.
        """
        x = _as_float(activation)
        if self.k_axis == -2 and x.ndim > 1:  # noqa: PLR2004 (an axis, not a quantity)
            x = x.transpose(-1, -2)
        rows = x.reshape(-1, x.shape[-1])
        yield from torch.split(rows, max(1, min(CHUNK_TOKENS, _count_at_once(rows) // max(1, rows.shape[1]))))

    def products(self, value: Activation) -> Float[Tensor, "tokens N"]:
        """Brings a value in the shape of the node's result to the shape of `X Wᵀ`.

        The weight must be the right operand.
        """
        return _as_float(value).reshape(-1, value.shape[-1])


@dataclass(frozen=True)
class Patches:
    """The view of Conv: each row of `X` is the receptive field of one output position.

    Within a row C_in varies fastest, as in the matrix of the weight.

    Attributes:
        kernel: Spatial size of the kernel.
        strides: Step of the kernel along each spatial axis.
        dilations: Distance between kernel entries along each spatial axis.
        pads: Padding in ONNX order: the beginnings of all spatial axes, and then their ends.
        auto_pad: The attribute `auto_pad` of ONNX. It overrides `pads` unless it is `NOTSET`.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"

    def chunks(self, activation: Activation) -> Iterator[Float[Tensor, "tokens K"]]:
        """Yields `X` in pieces of about `CHUNK_VALUES` entries at most, or one row of positions where a row is larger.

        The pieces are float32, or float64 where the activation is float64.
        """
        per_sample = max(1, math.prod(self.kernel) * math.prod(activation.shape[1:]))
        size = math.prod(activation.shape)
        step = max(1, (at_once := _count_at_once(activation)) // per_sample)
        if size == 0:  # without samples, or with samples without extent, there is no token
            yield _as_float(activation).new_zeros(0, math.prod(self.kernel) * activation.shape[1])
        for start in range(0, activation.shape[0] if size else 0, step):
            windows = self._windows(_as_float(activation[start : start + step]))
            rows = windows.shape[2] if step > 1 else max(1, at_once * windows.shape[2] // max(1, windows.numel()))
            for piece in torch.split(windows, max(1, rows), dim=2):  # the first spatial axis: tokens keep their order
                yield from torch.split(self._matrix(piece), CHUNK_TOKENS)

    def products(self, value: Activation) -> Float[Tensor, "tokens N"]:
        """Brings a value in the shape of the node's result to the shape of `X Wᵀ`."""
        return _as_float(value).movedim(1, -1).reshape(-1, value.shape[1])

    def _windows(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A view [samples, C_in, positions…, kernel…] of the padded input; the copy is made in `_matrix`."""
        x = F.pad(x, self._torch_pads(x.shape[2:]))
        for axis, span in enumerate(self._spans):
            x = x.unfold(2 + axis, span, self.strides[axis])[..., :: self.dilations[axis]]
        return x

    def _matrix(self, windows: Float[Tensor, "..."]) -> Float[Tensor, "tokens K"]:
        spatial = len(self.kernel)
        outer, inner = range(2, 2 + spatial), range(2 + spatial, 2 + 2 * spatial)
        patches = windows.permute(0, *outer, *inner, 1)
        return patches.reshape(-1, math.prod(self.kernel) * windows.shape[1])

    def _torch_pads(self, sizes: torch.Size) -> list[int]:
        margins = find_margins(sizes, self.strides, self._spans, self.pads, self.auto_pad)
        return [size for margin in reversed(margins) for size in margin]  # torch pads from the last axis

    @property
    def _spans(self) -> list[int]:
        """The number of positions from a window's first entry to its last, both included, along each spatial axis."""
        return [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]


View = Rows | Patches


def _count_at_once(activation: Activation) -> int:
    on_gpu = isinstance(activation, Tensor) and activation.device.type != "cpu"
    return CHUNK_VALUES_ON_GPU if on_gpu else CHUNK_VALUES


def _as_float(activation: Activation) -> Tensor:
    """Reads an activation as a tensor where it is: float64 stays float64, everything else becomes float32."""
    if isinstance(activation, Tensor):
        return activation.detach().to(torch.float64 if activation.dtype == torch.float64 else torch.float32)
    dtype = np.float64 if activation.dtype == np.float64 else np.float32
    return torch.from_numpy(np.ascontiguousarray(activation, dtype=dtype))
