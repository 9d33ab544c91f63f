"""The paper's mask solver: proximal gradient steps with a growing regulariser (arXiv 2501.18015, section 4)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.solver.prox import prox_dual_step
from prox24_export.solver.quadratic import Quadratic


@dataclass
class GradientState:
    """Iterates in unit-diagonal coordinates."""

    target: Float[Tensor, "N K"]
    sparse: Float[Tensor, "N K"]
    step: float  # η = 1 / λ_max
    strength: float
    iteration: int = 0
    quiet: int = 0


@dataclass(frozen=True)
class ProximalGradient:
    """`V ← prox_{η λ_k}(V − η (V−T) H)` with `λ_k = λ_0 β^k`, one product with a K × K matrix an iteration.

    Attributes:
        strength: First λ.
        strength_growth: β.
        patience: Stops once every group is settled and the support has not changed for so many iterations.
        limit: Most iterations.
    """

    strength: float = 0.01
    strength_growth: float = 1.01
    patience: int = 3
    limit: int = 2000

    def init(self, quadratic: Quadratic, target: Float[Tensor, "N K"]) -> GradientState:
        """`target` is in unit-diagonal coordinates, float32, of mean magnitude 1."""
        largest = float(quadratic.spectrum[0][-1])
        return GradientState(target, target.clone(), 1.0 / largest, self.strength)

    def step(self, quadratic: Quadratic, state: GradientState) -> GradientState:
        """One iteration; `state` is updated in place and returned."""
        gradient = (state.sparse - state.target) @ quadratic.scaled_gram
        moved = state.sparse - state.step * gradient
        unsettled, changed = prox_dual_step(moved, torch.zeros_like(moved), state.sparse, state.step * state.strength)
        state.iteration += 1
        state.quiet = 0 if changed or unsettled else state.quiet + 1
        state.strength *= self.strength_growth
        return state

    def done(self, state: GradientState) -> bool:
        """Whether the masks have settled."""
        return state.quiet >= self.patience
