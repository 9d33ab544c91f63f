"""Masked refinement: finds the best surviving weights for given masks."""

from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prox24_export.solver.products import Products, choose_products, multiply

DELAY = 3  # what the last steps gained together stands for what is still to gain
SHRINK_BELOW = 0.75  # share of rows still open below which the others are taken out of the products


@dataclass(frozen=True)
class ConjugateGradient:
    """Minimises `tr((V−T) G (V−T)ᵀ)` over `V` that vanish outside `mask`, every row at once.

    Conjugate gradient with a Jacobi preconditioner; residuals are masked, so each row solves its own normal
    equations on its support. One product with `G` an iteration, of the rows that have not stopped.

    Attributes:
        tolerance: A row stops when its last three steps together lowered its loss by less than this share of it,
            which leaves less than that above the optimum.
        limit: Most iterations.
        products: Precision of the products but the first, which all others only correct: `bf16`, or that of the
            matrices for any other.
    """

    tolerance: float = 1e-3
    limit: int = 100
    products: Products = "float32"

    def solve(
        self,
        target: Float[Tensor, "N K"],
        mask: Bool[Tensor, "N K"],
        gram: Float[Tensor, "K K"],
        start: Float[Tensor, "N K"],
    ) -> tuple[Float[Tensor, "N K"], int]:
        """Solves for `V` and returns it with the number of iterations taken.

        Args:
            target: `T`.
            mask: True where an entry survives.
            gram: `G`, positive semi-definite; damping belongs in it.
            start: First `V`; masked before use.
        """
        keep = mask.to(target.dtype)
        inverse = 1.0 / gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
        solution = torch.empty_like(target)
        rows = torch.arange(len(solution), device=solution.device)
        here = start * keep  # the rows that are still open
        residual = target - here
        product = residual @ gram
        loss = (residual * product).sum(1, keepdim=True)
        rounding = gram.shape[0] * torch.finfo(gram.dtype).eps ** 2  # of a loss: the square of a product's
        floor = rounding * (target.square() @ gram.diagonal())[:, None]
        residual = product.mul_(keep)
        direction = residual * inverse
        low = target.dtype == torch.float32 and choose_products(self.products, target.device) == "bf16"
        gram = gram.bfloat16() if low else gram
        energy = (residual * direction).sum(1, keepdim=True)
        gains: deque[Tensor] = deque(maxlen=DELAY)
        iterations = 0
        while iterations < self.limit:
            recent = torch.stack(list(gains)).sum(0) if len(gains) == DELAY else torch.full_like(loss, torch.inf)
            is_open = ((recent > self.tolerance * loss + floor) & (energy > 0)).squeeze(1)
            left = int(is_open.sum())
            if left == 0:
                break
            if left < SHRINK_BELOW * len(rows):
                solution[rows] = here
                rows = rows[is_open]
                here, keep, residual, direction = here[is_open], keep[is_open], residual[is_open], direction[is_open]
                loss, floor, energy = loss[is_open], floor[is_open], energy[is_open]
                gains = deque((gain[is_open] for gain in gains), maxlen=DELAY)
            product = (multiply(direction, gram, "bf16") if low else direction @ gram).mul_(keep)
            curvature = (direction * product).sum(1, keepdim=True)
            step = torch.where(curvature > 0, energy / curvature, 0.0)
            gains.append(step * energy)
            loss = loss - gains[-1]
            here = here.addcmul_(step, direction)
            residual.addcmul_(step, product, value=-1)
            conditioned = torch.mul(residual, inverse, out=product)
            following = (residual * conditioned).sum(1, keepdim=True)
            direction.mul_(torch.where(energy > 0, following / energy, 0.0)).add_(conditioned)
            energy = following
            iterations += 1
        solution[rows] = here
        return solution.mul_(mask), iterations


@dataclass(frozen=True)
class MaskedGradient:
    """The paper's refinement: `V ← V − η·M⊙((V−T) G)`, a fixed number of steps (arXiv 2501.18015, section 4).

    In coordinates in which `G` has unit diagonal, with `η = 1/λ_max`.

    Attributes:
        steps: The number of steps.
    """

    steps: int = 1000

    def solve(
        self,
        target: Float[Tensor, "N K"],
        mask: Bool[Tensor, "N K"],
        gram: Float[Tensor, "K K"],
        start: Float[Tensor, "N K"],
    ) -> tuple[Float[Tensor, "N K"], int]:
        """Takes and returns what `ConjugateGradient.solve` does."""
        scale = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
        largest = torch.linalg.eigvalsh((gram / scale / scale[:, None]).double())[-1]
        step = (1.0 / (largest * scale.double().square())).to(target.dtype)
        solution = start * mask
        for _ in range(self.steps):
            solution -= ((solution - target) @ gram).mul_(step).mul_(mask)
        return solution, self.steps
