"""Masked refinement: the best surviving weights for given masks."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def conjugate_gradient(
    target: Float[Tensor, "N K"],
    mask: Bool[Tensor, "N K"],
    gram: Float[Tensor, "K K"],
    start: Float[Tensor, "N K"],
    *,
    tolerance: float = 1e-4,
    limit: int = 100,
) -> tuple[Float[Tensor, "N K"], int]:
    """Minimises `tr((V−T) G (V−T)ᵀ)` over `V` that vanish outside `mask`, every row at once.

    Conjugate gradient with a Jacobi preconditioner; residuals are masked, so each row solves its own normal
    equations on its support. One product with `G` an iteration.

    Args:
        target: `T`.
        mask: True where an entry survives.
        gram: `G`, positive semi-definite; damping belongs in it.
        start: First `V`; masked before use.
        tolerance: A row stops when its preconditioned residual norm has fallen by this factor below that of `V = 0`.
        limit: Most iterations.

    Returns:
        `V`, and the iterations taken.
    """
    keep = mask.to(target.dtype)
    inverse_diagonal = 1.0 / gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
    solution = start * keep
    scale = ((target @ gram) * keep).square().mul(inverse_diagonal).sum(1, keepdim=True)
    residual = ((target - solution) @ gram) * keep
    conditioned = residual * inverse_diagonal
    direction = conditioned.clone()
    energy = (residual * conditioned).sum(1, keepdim=True)
    iterations = 0
    while iterations < limit:
        open_rows = energy > scale * tolerance**2
        if not bool(open_rows.any()):
            break
        product = (direction @ gram) * keep
        curvature = (direction * product).sum(1, keepdim=True)
        step = torch.where(open_rows & (curvature > 0), energy / curvature, 0.0)
        solution = solution + step * direction
        residual = residual - step * product
        conditioned = residual * inverse_diagonal
        following = (residual * conditioned).sum(1, keepdim=True)
        ratio = torch.where(energy > 0, following / energy, 0.0)
        direction = conditioned + ratio * direction
        energy = following
        iterations += 1
    return solution * keep, iterations
