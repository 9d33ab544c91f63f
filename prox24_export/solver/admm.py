"""Proximal ADMM: the paper's regulariser inside a splitting that solves the quadratic exactly."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.solver.prox import prox_dual_step
from prox24_export.solver.quadratic import Quadratic


@dataclass
class AdmmState:
    """Iterates in unit-diagonal coordinates, in the eigenbasis where named so."""

    fixed: Float[Tensor, "N K"]  # T·Q·Λ: the constant part of the quadratic step, in the eigenbasis
    sparse: Float[Tensor, "N K"]  # Z
    dual: Float[Tensor, "N K"]  # U
    penalty: float  # ρ
    strength: float  # λ
    iteration: int = 0
    quiet: int = 0  # iterations since the support last changed


@dataclass(frozen=True)
class ProximalAdmm:
    """Minimises `½ tr((V−T) H (V−T)ᵀ) + λ R(V)` while λ grows until `R` vanishes.

    X ← (T H + ρ(Z−U))(H+ρI)⁻¹,  Z ← prox_{λ/ρ}(X+U),  U ← U+X−Z, with H of unit diagonal and weights of mean
    magnitude 1. Two products with a K × K matrix an iteration; one eigendecomposition of `H` serves every ρ.

    Attributes:
        penalty: First ρ.
        strength: First λ.
        penalty_growth: Factor on ρ every `penalty_every` iterations; `U` is rescaled with it.
        strength_growth: Factor on λ every iteration.
        penalty_every: See `penalty_growth`.
        patience: Stops once every group is settled and the support has not changed for so many iterations.
        limit: Most iterations.
    """

    penalty: float = 0.1
    strength: float = 0.01
    penalty_growth: float = 1.1
    strength_growth: float = 1.1
    penalty_every: int = 3
    patience: int = 3
    limit: int = 300

    def init(self, quadratic: Quadratic, target: Float[Tensor, "N K"]) -> AdmmState:
        """`target` is in unit-diagonal coordinates, float32, of mean magnitude 1."""
        values, vectors = quadratic.spectrum
        return AdmmState(
            fixed=(target @ vectors) * values,
            sparse=target.clone(memory_format=torch.contiguous_format),
            dual=torch.zeros_like(target),
            penalty=self.penalty,
            strength=self.strength,
        )

    def step(self, quadratic: Quadratic, state: AdmmState) -> AdmmState:
        """One iteration; `state` is updated in place and returned."""
        values, vectors = quadratic.spectrum
        right = ((state.sparse - state.dual) @ vectors).mul_(state.penalty).add_(state.fixed)
        dense = right.div_(values + state.penalty) @ vectors.T
        unsettled, changed = prox_dual_step(dense, state.dual, state.sparse, state.strength / state.penalty)
        state.iteration += 1
        state.quiet = 0 if changed or unsettled else state.quiet + 1
        state.strength *= self.strength_growth
        if state.iteration % self.penalty_every == 0:
            state.penalty *= self.penalty_growth
            state.dual /= self.penalty_growth
        return state

    def done(self, state: AdmmState) -> bool:
        """Whether the masks have settled."""
        return state.quiet >= self.patience
