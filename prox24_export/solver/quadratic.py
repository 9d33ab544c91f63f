"""The layer-wise objective: damped Gram matrix, target, and coordinates in which it is well scaled."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

TOKENS_FOR_FIRM_DAMPING = 0.11  # damping × tokens per dimension: .01 at 11 and .0275 at 4, both measured best
LEAST_DAMPING, MOST_DAMPING = 0.002, 0.1


def automatic_damping(tokens: int | None, dimension: int) -> float:
    """Damping from tokens per input dimension, as a share of the mean diagonal of the Gram matrix.

    Few tokens say little about directions of small variance, so the fewer they are the more damping they need.
    """
    if not tokens:
        return 0.01
    return min(MOST_DAMPING, max(LEAST_DAMPING, TOKENS_FOR_FIRM_DAMPING * dimension / tokens))


@dataclass(frozen=True)
class Quadratic:
    """`tr((V−T) G (V−T)ᵀ)` with `G = (XₛᵀXₛ + δ·mean(diag)·I) / mean(diag)`.

    Attributes:
        gram: `G`, float64, damped, mean diagonal `1 + δ`. The identity where the input is always zero.
        correction: `(C − G) G⁻¹` [K, K] float64, so that the target of the dense output is `W + W·correction`; None
            where both streams are the same.
        damping: `δ`.
        degenerate: Whether the undamped Gram matrix is zero.
    """

    gram: Float[Tensor, "K K"]
    correction: Float[Tensor, "K K"] | None
    damping: float
    degenerate: bool

    @classmethod
    def of(cls, gram: Float[Tensor, "K K"], cross: Float[Tensor, "K K"] | None, damping: float) -> "Quadratic":
        """From undamped moments of any common scale.

        Raises:
            torch.linalg.LinAlgError: The damped matrix is not positive definite.
        """
        gram = gram.double()
        mean = float(gram.diagonal().mean())
        degenerate = mean <= 0
        damped = gram / mean if not degenerate else torch.zeros_like(gram)
        damped = 0.5 * (damped + damped.T)
        damped.diagonal().add_(1.0 if degenerate else damping)
        if degenerate or cross is None or cross is gram:
            return cls(damped, None, damping, degenerate)
        excess = (cross.double() - gram) / mean
        correction = torch.cholesky_solve(excess.T.contiguous(), torch.linalg.cholesky(damped)).T.contiguous()
        return cls(damped, correction, damping, degenerate)

    @cached_property
    def scale(self) -> Float[Tensor, " K"]:
        """Square root of the diagonal of `G`: `V·scale` are the coordinates with unit diagonal."""
        return self.gram.diagonal().sqrt()

    @cached_property
    def scaled_gram(self) -> Float[Tensor, "K K"]:
        """`G` with unit diagonal, float32."""
        return (self.gram / (self.scale[:, None] * self.scale)).float()

    @cached_property
    def spectrum(self) -> tuple[Float[Tensor, " K"], Float[Tensor, "K K"]]:
        """Eigenvalues and eigenvectors of `scaled_gram`, float32; computed once for every layer and every ρ."""
        values, vectors = torch.linalg.eigh(self.gram / (self.scale[:, None] * self.scale))
        return values.clamp_min(0).float(), vectors.float().contiguous()

    def target(self, weight: Float[Tensor, "N K"], blend: float) -> Float[Tensor, "N K"]:
        """`W + blend·W·(C−G)G⁻¹`: 0 aims at the weight, 1 at what the dense network produced."""
        if self.correction is None or blend == 0:
            return weight
        return weight + (blend * (weight.double() @ self.correction)).to(weight.dtype)


def loss(
    solution: Float[Tensor, "N K"], target: Float[Tensor, "N K"], gram: Float[Tensor, "K K"]
) -> Float[Tensor, " N"]:
    """`(v−t) gram (v−t)ᵀ` for every row, in float64."""
    difference = solution.double() - target.double()
    return ((difference @ gram.double()) * difference).sum(1)
