"""Solvers to compare with, written from their papers, compiled where ours is: so that ratios compare methods.

Each takes a weight [N, K] and the Gram matrix `XᵀX` and returns the sparse weight.
"""

import math

import numba
import numpy as np
import torch
from torch import Tensor

from prox24_export.solver.pattern import two_four_mask
from prox24_export.solver.refine import ConjugateGradient

DAMPING = 0.01  # of the mean diagonal: ALPS's
GRADUAL_DAMPING, GRADUAL_STEPS, GRADUAL_PRUNING_STEPS = 0.1, 20, 15


def alps(weight: Tensor, gram: Tensor) -> Tensor:
    """ALPS (Meng et al. 2024, arXiv 2406.07831): ADMM on the ℓ0 constraint, then conjugate gradients on the support.

    ρ starts at 0.1 and is multiplied by 1.3, 1.2 or 1.1 every third iteration as the support changes by more than 10 %,
    by more than 0.5 %, or at all; it ends when the support rests, as in section 3 and appendix B.
    """
    scaled, scale = _unit_diagonal(gram, DAMPING)
    target = (weight.double() * scale).float()
    values, vectors = (part.float() for part in torch.linalg.eigh(scaled))
    wanted = target @ scaled.float()
    rho, iteration = 0.1, 0
    sparse = target * two_four_mask(target)
    dual = torch.zeros_like(target)
    before = sparse != 0
    inverse = (vectors / (values + rho)) @ vectors.T
    dense = torch.empty_like(target)
    while iteration < 300:
        torch.mm(wanted - dual + rho * sparse, inverse, out=dense)
        _threshold(_groups(dense), _groups(dual), _groups(sparse), rho)
        iteration += 1
        if iteration % 3:
            continue
        now = sparse != 0
        changed = float((now != before).sum()) / (target.numel() / 2)
        before = now
        if changed == 0 or (iteration >= 30 and changed < 0.0003):
            break
        rho *= 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else 1.1
        inverse = (vectors / (values + rho)) @ vectors.T
    mask = two_four_mask(dense)
    refined, _ = ConjugateGradient(tolerance=0.0, limit=10).solve(target, mask, scaled.float(), dense)
    return (refined.double() / scale).float()


@numba.njit(parallel=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator] # numba has no types
def _threshold(dense: np.ndarray, dual: np.ndarray, sparse: np.ndarray, rho: float) -> None:  # type: ignore[type-arg]
    """`D ← two largest of B + V/ρ`, `V ← V + ρ(B − D)`."""
    for g in numba.prange(dense.shape[0]):
        v = np.empty(4, dense.dtype)
        for i in range(4):
            v[i] = dense[g, i] + dual[g, i] / rho
        for i in range(4):
            larger = 0
            for j in range(4):
                larger += int(abs(v[j]) > abs(v[i]) or (abs(v[j]) == abs(v[i]) and j < i))
            sparse[g, i] = v[i] if larger < 2 else 0.0
            dual[g, i] += rho * (dense[g, i] - sparse[g, i])


def admm_gradual(weight: Tensor, gram: Tensor) -> Tensor:
    """Boža 2024 (arXiv 2401.02938): ADMM with ρ = 1 and a mask that tightens for 15 of 20 steps, along a cubic.

    Within each group only the two smallest may go; which of those go first is decided over the whole weight.
    """
    scaled, scale = _unit_diagonal(gram, 0.0)
    scaled.diagonal().add_(GRADUAL_DAMPING * scaled.diagonal().mean())
    target = (weight.double() * scale).float()
    wanted = target @ scaled.float()
    scaled.diagonal().add_(1.0)
    inverse = torch.linalg.inv(scaled).float()
    dense, dual = target.clone(), torch.zeros_like(target)
    mask = torch.ones_like(target, dtype=torch.bool)
    for step in range(GRADUAL_STEPS):
        moved = dense + dual
        if step < GRADUAL_PRUNING_STEPS:
            share = 0.5 - 0.5 * (1 - (step + 1) / GRADUAL_PRUNING_STEPS) ** 3
            size = moved.abs().masked_fill(two_four_mask(moved), math.inf)
            count = int(target.numel() * share)
            mask = size > torch.from_numpy(np.partition(size.numpy(), count - 1, axis=None)[count - 1 : count])
        sparse = moved * mask
        dual = moved - sparse
        dense = (wanted + sparse - dual) @ inverse
    return (((dense + dual) * mask).double() / scale).float()


def alternating_prox(z: Tensor, strength: float, sweeps: int) -> Tensor:
    """The prox of ProxSparse (Liu et al. 2025, arXiv 2502.00258): each support by alternating minimisation from `z`.

    The best of two, three and four non-zeros, where the entries of three and four are updated in turn, each to its
    minimiser for the others fixed, a number of times. Float64.
    """
    size, order = z.double().abs().sort(dim=-1, descending=True, stable=True)
    best = size * torch.tensor([1.0, 1, 0, 0])
    for support in (torch.tensor([1.0, 1, 1, 0]), torch.ones(4)):
        w = size * support
        for _ in range(sweeps):
            for i in range(4):
                a, b, c = (w[:, j] for j in range(4) if j != i)
                w[:, i] = (size[:, i] - strength * (a * b + c * (a + b))).clamp_min(0) * support[i]
        better = objective(w, size, strength) < objective(best, size, strength)
        best = torch.where(better[:, None], w, best)
    return torch.empty_like(best).scatter_(-1, order, best) * z.sign()


def objective(w: Tensor, z: Tensor, strength: float) -> Tensor:
    """`½‖w − z‖² + strength·R(w)` of each group."""
    a, b, c, d = w.abs().unbind(-1)
    return 0.5 * (w - z).square().sum(-1) + strength * (a * b * c + b * c * d + c * d * a + d * a * b)


def _unit_diagonal(gram: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    damped = gram.double().clone()
    damped.diagonal().add_(damping * damped.diagonal().mean())
    scale = damped.diagonal().sqrt() + 1e-8
    return damped / scale / scale[:, None], scale


def _groups(tensor: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    return tensor.view(-1, 4).numpy()
