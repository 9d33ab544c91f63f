"""Proximal ADMM: the paper's regulariser inside a splitting that solves the quadratic exactly."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.solver.pattern import GROUP
from prox24_export.solver.products import Products, choose_products, multiply
from prox24_export.solver.prox import splitting_step
from prox24_export.solver.quadratic import Quadratic


@dataclass
class AdmmState:
    """Iterates in unit-diagonal coordinates. `X` and `U` of the splitting are implied, see `prox.splitting_step`."""

    target: Float[Tensor, "N K"]  # T
    sparse: Float[Tensor, "N K"]  # Z
    gap: Float[Tensor, "N K"]  # Z − U − T
    penalty: float  # ρ
    strength: float  # λ
    iteration: int = 0
    quiet: int = 0  # iterations for which the masks have been settled


@dataclass(frozen=True)
class ProximalAdmm:
    """Minimises `½ tr((V−T) H (V−T)ᵀ) + λ R(V)` while λ grows until `R` vanishes.

    X ← (T H + ρ(Z−U))(H+ρI)⁻¹,  Z ← prox_{λ/ρ}(X+U),  U ← U+X−Z, with H of unit diagonal and rows of mean magnitude 1.
    Written for `X − T = (Z−U−T)·ρ(H+ρI)⁻¹` it costs one product with a K × K matrix an iteration, and an inverse when ρ
    changes, which rows that are solved side by side share.

    Attributes:
        penalty: The first ρ.
        strength: The first λ.
        penalty_growth: Factor on ρ every `penalty_every` iterations; `U` is rescaled with it.
        strength_growth: Factor on λ every iteration.
        penalty_every: See `penalty_growth`.
        unsettled: Share of the groups below which those that still change, or have more than two non-zeros, no longer
            matter; their two largest entries are kept.
        patience: The iteration stops once that has held for so many iterations.
        limit: The most iterations.
        products: Precision of the products, see `products`.
    """

    penalty: float = 0.23
    strength: float = 0.033
    penalty_growth: float = 1.18
    strength_growth: float = 1.16
    penalty_every: int = 5
    unsettled: float = 2e-3
    patience: int = 1
    limit: int = 300
    products: Products = "auto"

    def init(self, quadratic: Quadratic, target: Float[Tensor, "N K"]) -> AdmmState:  # noqa: ARG002 - the protocol's
        """The first state; see `MaskSolver.init`."""
        return AdmmState(
            target=target,
            sparse=target.clone(),
            gap=torch.zeros_like(target),
            penalty=self.penalty,
            strength=self.strength,
        )

    def step(self, quadratic: Quadratic, state: AdmmState) -> AdmmState:
        """One iteration; `state` is updated in place and returned."""
        product = self._multiply_gap(quadratic, state)
        state.iteration += 1
        grows = state.iteration % self.penalty_every == 0
        unsettled, changed = splitting_step(
            product,
            state.gap,
            state.sparse,
            state.target,
            state.strength / state.penalty,
            1 / self.penalty_growth if grows else 1.0,
        )
        few = self.unsettled * (state.sparse.numel() // GROUP)
        state.quiet = state.quiet + 1 if max(unsettled, changed) <= few else 0
        state.strength *= self.strength_growth
        if grows:
            state.penalty *= self.penalty_growth
        return state

    def done(self, state: AdmmState) -> bool:
        """Whether the masks have settled."""
        return state.quiet >= self.patience

    def _multiply_gap(self, quadratic: Quadratic, state: AdmmState) -> Float[Tensor, "N K"]:
        """`X − T`."""
        if state.iteration == 0:
            return torch.zeros_like(state.gap)  # as the gap is
        products, dtype = choose_products(self.products, state.gap.device), state.gap.dtype
        rounded = torch.bfloat16 if products == "bf16" and dtype == torch.float32 else dtype
        return multiply(state.gap, quadratic.resolvent(state.penalty, rounded), products)
