"""Masked refinement: finds the best surviving weights for given masks."""

from collections import deque
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prox24_export.solver import kernels_refine
from prox24_export.solver.products import Products, choose_products, multiply
from prox24_export.solver.threads import start_threads

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
        inverse = 1.0 / gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
        solution = torch.empty_like(target)
        places = torch.arange(len(solution), device=solution.device)
        residual = target - start * mask
        product = residual @ gram
        loss = (residual * product).sum(1, dtype=torch.float64)
        rounding = gram.shape[0] * torch.finfo(gram.dtype).eps ** 2  # of a loss: the square of a product's
        floor = rounding * (target.square() @ gram.diagonal()).double()
        residual = product.mul_(mask)
        direction = residual * inverse
        energy = (residual * direction).sum(1, dtype=torch.float64)
        rows = _OpenRows(places, start * mask, mask, residual, direction, loss, floor, energy)
        low = target.dtype == torch.float32 and choose_products(self.products, target.device) == "bf16"
        gram = gram.bfloat16() if low else gram
        gains: deque[Tensor] = deque(maxlen=DELAY)
        iterations = 0
        while iterations < self.limit:
            recent = torch.stack(list(gains)).sum(0) if len(gains) == DELAY else torch.full_like(rows.loss, torch.inf)
            is_open = (recent > self.tolerance * rows.loss + rows.floor) & (rows.energy > 0)
            left = int(is_open.sum())
            if left == 0:
                break
            if left < SHRINK_BELOW * len(rows.places):
                solution[rows.places] = rows.here
                kept = is_open.nonzero()[:, 0]  # once: to know how many these are, the host waits for a GPU
                rows = rows.keep(kept)
                gains = deque((gain[kept] for gain in gains), maxlen=DELAY)
            product = multiply(rows.direction, gram, "bf16") if low else rows.direction @ gram
            gains.append(rows.step(product, inverse))
            iterations += 1
        solution[rows.places] = rows.here
        return solution.mul_(mask), iterations


@dataclass
class _OpenRows:
    """The rows that have not stopped; sums in float64."""

    places: Int[Tensor, " rows"]
    here: Float[Tensor, "rows K"]
    mask: Bool[Tensor, "rows K"]
    residual: Float[Tensor, "rows K"]
    direction: Float[Tensor, "rows K"]
    loss: Float[Tensor, " rows"]
    floor: Float[Tensor, " rows"]
    energy: Float[Tensor, " rows"]

    def keep(self, kept: Int[Tensor, " kept"]) -> "_OpenRows":
        """Only some of them, by their places here."""
        return _OpenRows(*(getattr(self, each.name)[kept] for each in fields(self)))

    def step(self, product: Float[Tensor, "rows K"], inverse: Float[Tensor, " K"]) -> Float[Tensor, " rows"]:
        """Takes a step in place, given `direction·G`, and returns what it lowers the loss of each row by."""
        gain = torch.empty_like(self.energy)
        if product.device.type == "cpu":
            start_threads()
            matrices = (product, self.direction, self.here, self.residual, self.mask)
            kernels_refine.conjugate_step(*(one.numpy() for one in (*matrices, inverse, self.energy, gain)))
        else:
            product = product * self.mask
            curvature = (self.direction * product).sum(1, dtype=torch.float64)
            step = torch.where(curvature > 0, self.energy / curvature, 0.0)
            torch.mul(step, self.energy, out=gain)
            by = step.to(product.dtype)[:, None]
            self.here.addcmul_(by, self.direction)
            self.residual.addcmul_(by, product, value=-1)
            conditioned = torch.mul(self.residual, inverse, out=product)
            following = (self.residual * conditioned).sum(1, dtype=torch.float64)
            turn = torch.where(self.energy > 0, following / self.energy, 0.0)
            self.direction.mul_(turn.to(product.dtype)[:, None]).add_(conditioned)
            self.energy = following
        self.loss = self.loss - gain
        return gain


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
