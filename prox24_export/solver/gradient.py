"""The paper's mask solver: proximal gradient steps with a growing regulariser (arXiv 2501.18015, section 4)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.solver.pattern import GROUP
from prox24_export.solver.products import Products, multiply
from prox24_export.solver.prox import gradient_step
from prox24_export.solver.quadratic import Quadratic


@dataclass
class GradientState:
    """Iterates in unit-diagonal coordinates."""

    target: Float[Tensor, "N K"]  # T
    sparse: Float[Tensor, "N K"]  # Z
    gap: Float[Tensor, "N K"]  # where the gradient is taken, less T
    product: Float[Tensor, "N K"]  # gap·H
    step: float  # η = 1 / λ_max
    strength: float
    iteration: int = 0
    quiet: int = 0


@dataclass(frozen=True)
class ProximalGradient:
    """`V ← prox_{η λ_k}(Y − η (Y−T) H)` with `λ_k = λ_0 β^k` and `Y = V + momentum·(V − V_before)`.

    An iteration costs one product with a K × K matrix. Without momentum it is the method of the paper.

    Attributes:
        strength: The first λ.
        strength_growth: β, the factor on λ every iteration.
        momentum: The factor on the last change of `V`, between 0 and 1.
        unsettled: Share of the groups below which those that still change, or have more than two non-zeros, no longer
            matter; their two largest entries are kept.
        patience: The iteration stops once that has held for so many iterations.
        limit: The most iterations.
        products: Precision of the products, see `products`.
    """

    strength: float = 0.01
    strength_growth: float = 1.03
    momentum: float = 0.9
    unsettled: float = 1e-3
    patience: int = 2
    limit: int = 2000
    products: Products = "auto"

    def init(self, quadratic: Quadratic, target: Float[Tensor, "N K"]) -> GradientState:
        """The first state; see `MaskSolver.init`."""
        return GradientState(
            target=target,
            sparse=target.clone(),
            gap=torch.zeros_like(target),
            product=torch.empty_like(target),
            step=1.0 / quadratic.largest,
            strength=self.strength,
        )

    def step(self, quadratic: Quadratic, state: GradientState) -> GradientState:
        """One iteration; `state` is updated in place and returned."""
        wide = state.gap.dtype == torch.float64
        gram = quadratic.scaled_gram_float64 if wide else quadratic.scaled_gram
        multiply(state.gap, gram, self.products, out=state.product)
        unsettled, changed = gradient_step(
            state.product,
            state.gap,
            state.sparse,
            state.target,
            state.step * state.strength,
            state.step,
            self.momentum,
        )
        few = self.unsettled * (state.sparse.numel() // GROUP)
        state.quiet = state.quiet + 1 if max(unsettled, changed) <= few else 0
        state.iteration += 1
        state.strength *= self.strength_growth
        return state

    def done(self, state: GradientState) -> bool:
        """Whether the masks have settled."""
        return state.quiet >= self.patience
