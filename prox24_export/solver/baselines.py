"""The methods everybody compares with: magnitude, Wanda, SparseGPT. They aim at `W` and know no refinement."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prox24_export.solver.pattern import GROUP, two_four_mask

SPARSEGPT_BLOCK = 128  # columns updated together, as published
SPARSEGPT_DAMPING = 0.01  # of the mean diagonal, as published


def magnitude(weight: Float[Tensor, "N K"]) -> Bool[Tensor, "N K"]:
    """Keeps the two entries of largest magnitude in each group."""
    return two_four_mask(weight)


def wanda(weight: Float[Tensor, "N K"], squared_norms: Float[Tensor, " K"]) -> Bool[Tensor, "N K"]:
    """Keeps the two largest `|w|·‖x‖` in each group (Sun et al. 2024, arXiv 2306.11695).

    Args:
        weight: `W`.
        squared_norms: Diagonal of `XᵀX`, the dense network's.
    """
    return two_four_mask(weight * squared_norms.sqrt().to(weight.dtype))


def sparsegpt(weight: Float[Tensor, "N K"], gram: Float[Tensor, "K K"]) -> Float[Tensor, "N K"]:
    """SparseGPT for 2:4 (Frantar and Alistarh 2023, arXiv 2301.00774, section 3.2).

    Columns are visited in order; each group's mask is chosen when its first column is reached, and the error of
    every pruned entry is spread over the columns not yet visited.

    Args:
        weight: `W`.
        gram: `XᵀX`; its scale does not matter. Dead channels count as unit diagonal, as published.

    Raises:
        torch.linalg.LinAlgError: The damped Gram matrix is not positive definite.
    """
    columns = weight.shape[1]
    work = weight.double().clone()
    hessian = gram.double().clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1.0
    work[:, dead] = 0.0
    hessian.diagonal().add_(SPARSEGPT_DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, columns, SPARSEGPT_BLOCK):
        stop = min(start + SPARSEGPT_BLOCK, columns)
        errors = torch.zeros_like(work[:, start:stop])
        for column in range(start, stop):
            if column % GROUP == 0:
                group = slice(column, column + GROUP)
                kept = two_four_mask(work[:, group] / upper.diagonal()[group])
            survives = kept[:, column % GROUP]
            error = torch.where(survives, 0.0, work[:, column]) / upper[column, column]
            work[:, column:stop] -= error[:, None] * upper[column, column:stop]
            work[:, column] = torch.where(survives, work[:, column], 0.0)
            errors[:, column - start] = error
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    return work.to(weight.dtype)
