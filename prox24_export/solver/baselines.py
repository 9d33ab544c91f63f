"""The methods everybody compares with: magnitude, Wanda, SparseGPT. They aim at `W` and have no refinement."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prox24_export.solver.pattern import GROUP, mark_two_largest, two_four_mask

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


@dataclass(frozen=True)
class SparseGpt:
    """SparseGPT for 2:4 (Frantar and Alistarh 2023, arXiv 2301.00774, section 3.2), float32 as published.

    Attributes:
        upper: Upper Cholesky factor of the inverse of the damped Gram matrix.
        dead: Channels that are always zero.
    """

    upper: Float[Tensor, "K K"]
    dead: Bool[Tensor, " K"]

    @classmethod
    def of(cls, gram: Float[Tensor, "K K"]) -> "SparseGpt":
        """Prepares the factor from `XᵀX`, whose scale does not matter; dead channels get a unit diagonal, as published.

        Raises:
            torch.linalg.LinAlgError: The damped Gram matrix is not positive definite.
        """
        hessian = gram.double().clone()
        dead = hessian.diagonal() == 0
        hessian.diagonal().masked_fill_(dead, 1.0)
        hessian.diagonal().add_(SPARSEGPT_DAMPING * hessian.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        return cls(torch.linalg.cholesky(inverse, upper=True).float(), dead)

    def solve(self, weight: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Visits columns in order; each group's mask is chosen when its first column is reached.

        The error of every pruned entry is spread over the columns not yet visited.
        """
        work = weight.float().masked_fill(self.dead, 0.0)
        columns, upper = work.shape[1], self.upper
        for start in range(0, columns, SPARSEGPT_BLOCK):
            stop = min(start + SPARSEGPT_BLOCK, columns)
            block = work[:, start:stop].T.contiguous()  # columns become rows: what is updated together lies together
            errors = torch.empty_like(block)
            for column in range(stop - start):
                here = start + column
                if column % GROUP == 0:
                    group = slice(column, column + GROUP)
                    kept = mark_two_largest((block[group] / upper.diagonal()[here : here + GROUP, None]).T.abs()).T
                error = block[column].masked_fill(kept[column % GROUP], 0.0) / upper[here, here]
                block[column:].addr_(upper[here, here:stop], error, alpha=-1)
                block[column].masked_fill_(~kept[column % GROUP], 0.0)
                errors[column] = error
            work[:, start:stop] = block.T
            work[:, stop:].addmm_(errors.T, upper[start:stop, stop:], alpha=-1)
        return work.to(weight.dtype)
