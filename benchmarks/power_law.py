"""A layer as solvers are measured on it, and P(d), the synthetic one."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from prox24_export.solver.quadratic import loss

TOKENS, HELD_OUT = 8192, 2048
CHUNK = 2048  # tokens of a float32 product; totals are float64


@dataclass(frozen=True)
class Layer:
    """A weight with what calibration and held-out data say about its input.

    Attributes:
        weight: `W` [N, K], float32.
        gram: `XᵀX` of the calibration tokens, float64.
        held: The same of the held-out tokens.
        tokens: Calibration tokens.
        activations: Calibration tokens [tokens, K], float32; empty where only the Gram matrix is kept.
        held_activations: Held-out tokens [tokens, K], float32; empty likewise.
    """

    weight: Tensor
    gram: Tensor
    held: Tensor
    tokens: int
    activations: Tensor = field(default_factory=lambda: torch.empty(0))
    held_activations: Tensor = field(default_factory=lambda: torch.empty(0))

    def gram_again(self) -> Tensor:
        """The Gram matrix from the activations, as the tool accumulates it; the known one where they were not kept."""
        if not len(self.activations):
            return self.gram
        total = torch.zeros_like(self.gram)
        for start in range(0, self.tokens, CHUNK):
            chunk = self.activations[start : start + CHUNK]
            total += chunk.T @ chunk
        return total

    def error(self, solution: Tensor, *, held: bool = False) -> float:
        """`tr((V−W) G (V−W)ᵀ) / tr(W G Wᵀ)`, on the calibration tokens or on those held out."""
        gram = self.held if held else self.gram
        return float(
            loss(solution, self.weight, gram).sum() / loss(torch.zeros_like(self.weight), self.weight, gram).sum()
        )


def power_law(size: int, seed: int = 0) -> Layer:
    """P(size): gaussian `W`, `X = Z·diag(i^−½)·Qᵀ·diag(exp(½g))`, 8,192 calibration and 2,048 held-out tokens."""
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((size, size)) / np.sqrt(size)).astype(np.float32)
    basis, _ = np.linalg.qr(random.standard_normal((size, size)))
    spectrum = np.arange(1, size + 1) ** -0.5
    channels = np.exp(0.5 * random.standard_normal(size))
    mixing = (spectrum[:, None] * basis.T * channels).astype(np.float32)
    mixing /= np.sqrt((mixing.astype(np.float64) ** 2).sum() / size)
    tokens = torch.from_numpy(random.standard_normal((TOKENS, size), dtype=np.float32) @ mixing)
    held = torch.from_numpy(random.standard_normal((HELD_OUT, size), dtype=np.float32) @ mixing)
    exact, exact_held = tokens.double(), held.double()
    return Layer(torch.from_numpy(weight), exact.T @ exact, exact_held.T @ exact_held, TOKENS, tokens, held)
