"""Rounds a weight to an integer grid with the Gram matrix deciding where the error goes.

Every row has a grid of its own, `s·q` with whole `q` from −levels to levels, and zeros stay zeros. Rounding to nearest
ignores that an error in one entry can be made good by others. Here each row minimises `(v−t) G (v−t)ᵀ` over its grid,
in three steps:

1. the scale `s` is chosen by what descent from the nearest grid point reaches with it;
2. a splitting with rounding as its operator (Boyd et al. 2011, section 9.1; Takapoui et al. 2017, arXiv 1509.08416)
   leads to a good region of the grid: `X ← T + (Z−U−T)·ρ(H+ρI)⁻¹`, `Z ← round(X+U)`, `U ← U+X−Z`, in coordinates in
   which `H` has unit diagonal; the matrix is shared by all rows, whatever their zeros;
3. descent moves one entry by one level at a time, always the one that gains most, until none gains.

Order and compensate (GPTQ, Frantar et al. 2022, arXiv 2210.17323) needs a factor of its own for the support of every
row, and ends a little higher: `benchmarks/rounding.py` compares.

Cost: about 20 products of W with a K × K matrix, and the moves of the descent. 1,024 rows of 4,096 columns took 13 s of
the processor, on one thread, and 2.5 s more for the matrices that all rows share.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined] # documented, but missing from the stubs

from prox24_export.solver.compile_cache import cache_compiled
from prox24_export.solver.quadratic import Quadratic, automatic_damping, energy, loss
from prox24_export.solver.refine import ConjugateGradient
from prox24_export.solver.threads import start_threads

LEVELS = 127  # of int8, without −128: the grid is symmetric
ROWS_AT_ONCE = 1 << 24  # most entries that are rounded together; rows are independent, so this bounds memory
ROUNDED_IN_FLOAT64 = 1 << 22  # entries of rows and Gram matrix up to which the products of other threads change nothing
PENALTY = 0.45  # ρ, in units of the diagonal of H
STEPS = 16  # of the splitting; from 12 to 24 the loss falls by less than 2 %
COARSE = tuple(0.8**power for power in range(12))  # shares of max|v|/levels, down to a twelfth where there are outliers
FINE = (1.0, 0.98, 0.96)  # of the best of those
TOLERANCE = 1e-6  # of the refinement: what it leaves has to be small beside what rounding adds
LEAST_GAIN = 1e-6  # share of half an entry's curvature below which a move is rounding of the arithmetic
MOST_MOVES = 64  # of an entry, in the mean; each lowers the loss, so only a defect would reach this
BLOCK = 128  # entries searched together
NEVER = 1e300  # a cost that no move is made for; finite, because fastmath knows no infinity

_parallel = cache_compiled(numba.njit(cache=True, nogil=True, fastmath=True, parallel=True))
_scalar = cache_compiled(numba.njit(cache=True, nogil=True, fastmath=True))


@dataclass(frozen=True)
class RoundedWeight:
    """A weight on an integer grid: `scales[:, None] * integers`, zero point 0.

    Attributes:
        integers: From −levels to levels, int8 [N, K]; 0 wherever the weight was 0.
        scales: Of the rows, float32 [N], positive and finite; 1 for a row of zeros.
        loss: `tr((V−T) gram (V−T)ᵀ)`, undamped, against the target `T`.
        relative_error: `loss` relative to the same quadratic of the weight that the target stands for.
        seconds: Wall time.
    """

    integers: Int8[Tensor, "N K"]
    scales: Float[Tensor, " N"]
    loss: float
    relative_error: float
    seconds: float

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The weight that a runtime computes with, float32, +0.0 where it is zero."""
        return self.integers.float() * self.scales[:, None]


def round_to_nearest(
    weight: Float[Tensor, "N K"], *, levels: int = LEVELS
) -> tuple[Int8[Tensor, "N K"], Float[Tensor, " N"]]:
    """Rounds every entry to the nearest level of its row's grid, whose last level is the row's largest magnitude.

    Returns:
        Integers, int8 [N, K], and scales, float32 [N]; 1 for a row of zeros.
    """
    scales = _largest_scales(weight, levels)
    return _nearest(weight.double(), scales, levels).to(torch.int8), scales


def round_to_grid(
    weight: Float[Tensor, "N K"],
    gram: Float[Tensor, "K K"],
    *,
    target: Float[Tensor, "N K"] | None = None,
    cross: Float[Tensor, "K K"] | None = None,
    residual: Float[Tensor, "N K"] | None = None,
    tokens: int | None = None,
    damping: float | None = None,
    blend: float = 1.0,
    levels: int = LEVELS,
) -> RoundedWeight:
    """Rounds a weight to `scale·integer` per row, with the least change of the layer's output; zeros stay zeros.

    With quantised activations `X_q` the moments are those of what the layer then reads: `gram = X_qᵀX_q` and
    `cross = X_dᵀX_q`. The surviving entries are first refined for these moments and then rounded. Where `X_q` differs
    from `X_d` by nothing but fine rounding, as of INT8 without outliers, the cross moment holds mostly noise, and the
    error on other tokens is lower without it; choose `blend` on held-back tokens.

    Args:
        weight: `V`, any float dtype; its zeros are kept, so 2:4 stays 2:4. A dense weight is rounded, too.
        gram: `XᵀX` of the layer's input, undamped; any scale.
        target: The dense weight `W` whose output is aimed at; None: `weight` itself.
        cross: `X_dᵀX` on the same scale, with the input `X_d` on which the target's output is aimed at; None where both
            inputs are the same.
        residual: `(r_d − r)ᵀX`, as `solve_layer` takes it. All moments are moved to the device of `weight`.
        tokens: Rows of `X`, for the automatic damping.
        damping: Share of the Gram matrix's mean diagonal that is added to it; None derives it from `tokens`.
        blend: 0 aims at the target weight, 1 at its output on `X_d`; only with `cross` or `residual`.
        levels: Largest integer, 1 to 127.

    Returns:
        The rounded weight, on the device of `weight`. Against the refined weight, the damped quadratic of no row is
        larger than rounding to nearest leaves it.

    Raises:
        ValueError: Shapes do not fit, an entry is NaN or Inf, `levels` is out of range, or the Gram matrix is no Gram
            matrix: it has negative eigenvalues.
    """
    started = time.perf_counter()
    gram = gram.to(weight.device)
    target, cross, residual = (None if m is None else m.to(weight.device) for m in (target, cross, residual))
    _check(weight, gram, levels, target=target, cross=cross, residual=residual)
    quadratic = _make_quadratic(gram, cross, automatic_damping(tokens, weight.shape[1]) if damping is None else damping)
    is_moved = any(given is not None for given in (target, cross, residual))
    integers = torch.empty_like(weight, dtype=torch.int8)
    scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    lost = whole = 0.0
    grid = Grid.of(quadratic, _choose_dtype(weight), levels)
    for part in _parts(weight):
        rows = weight[part].to(grid.gram.dtype)
        aim = rows if target is None else target[part].to(grid.gram.dtype)
        whole += float(energy(aim, gram))
        if is_moved:
            correction = quadratic.correction(aim, None if residual is None else residual[part]) if blend else None
            aim = aim if correction is None else aim + (blend * correction).to(grid.gram.dtype)
            rows, _ = ConjugateGradient(TOLERANCE).solve(aim, rows != 0, grid.gram, rows)
        integers[part], scales[part] = grid.round_rows(rows)
        lost += float(loss(integers[part] * scales[part, None].double(), aim, gram).sum())
    return RoundedWeight(integers, scales, lost, lost / whole if whole > 0 else 0.0, time.perf_counter() - started)


@dataclass(frozen=True)
class Grid:
    """What all rows share.

    Attributes:
        gram: Damped Gram matrix, in the dtype in which rows are rounded.
        unit: `v·unit` are coordinates in which it has unit diagonal.
        proximal: `ρ(H+ρI)⁻¹` of the splitting, in these coordinates.
        levels: Largest integer.
    """

    gram: Float[Tensor, "K K"]
    unit: Float[Tensor, " K"]
    proximal: Float[Tensor, "K K"]
    levels: int

    @classmethod
    def of(cls, quadratic: Quadratic, dtype: torch.dtype, levels: int = LEVELS) -> "Grid":
        """Makes it from the objective; `dtype` is float32 or float64."""
        return cls(
            quadratic.make_gram(dtype),
            quadratic.scale.to(dtype),
            quadratic.inverse(PENALTY, dtype).mul_(PENALTY),
            levels,
        )

    def round_rows(self, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Integers and scales that are near `goal` in the damped quadratic; see the module for the three steps."""
        widest = _largest_scales(goal, self.levels)
        integers = _nearest(goal, widest, self.levels)
        best, scales = self._measure(integers, widest, goal), widest.clone()
        coarse = widest * self.choose_coarse(goal, widest)

        def keep_better(tried: Tensor, with_scales: Tensor) -> None:
            tried, losses = self.descend(tried, with_scales, goal)
            better = losses < best
            integers[better], scales[better], best[better] = tried[better], with_scales[better], losses[better]

        for share in FINE:
            finer = _positive(coarse * share)
            keep_better(_nearest(goal, finer, self.levels), finer)
        keep_better(self.split(goal, scales), scales.clone())
        return integers.to(torch.int8), scales

    def choose_coarse(self, goal: Tensor, widest: Tensor) -> Tensor:
        """The share of the widest scale with the least loss on the diagonal: one product would be one too many."""
        diagonal = self.gram.diagonal()
        best = torch.full_like(widest, torch.inf, dtype=self.gram.dtype)
        chosen = torch.ones_like(widest)
        for share in COARSE:
            scales = _positive(widest * share)
            gap = _nearest(goal, scales, self.levels).mul_(scales[:, None]).sub_(goal)
            found = gap.square_() @ diagonal
            chosen[found < best] = share
            best = torch.minimum(best, found)
        return chosen

    def split(self, goal: Tensor, scales: Tensor) -> Tensor:
        """The integers at which the splitting ends."""
        scaled, grid = goal * self.unit, scales.to(self.gram.dtype)[:, None] * self.unit
        keep = goal != 0
        rounded = _nearest(goal, scales, self.levels).mul_(grid)
        dual = torch.zeros_like(rounded)
        for _ in range(STEPS):
            reached = (rounded - dual).sub_(scaled) @ self.proximal
            reached.add_(scaled).add_(dual)
            rounded = torch.div(reached, grid, out=rounded).round_().clamp_(-self.levels, self.levels).mul_(keep)
            rounded.mul_(grid)
            dual = reached.sub_(rounded)
        return rounded.div_(grid).round_()

    def _measure(self, integers: Tensor, scales: Tensor, goal: Tensor) -> Tensor:
        gap = (integers * scales.to(self.gram.dtype)[:, None]).sub_(goal)
        return ((gap @ self.gram) * gap).sum(1, dtype=torch.float64)

    def descend(self, integers: Tensor, scales: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Descends from `integers` and returns where it ends, and the losses there, float64."""
        gap = (integers * scales.to(self.gram.dtype)[:, None]).sub_(goal)
        gradient = (gap @ self.gram).cpu().numpy()
        moved, losses = integers.cpu().numpy().copy(), np.empty(len(integers))
        fixed = scales.double().cpu().numpy(), goal.cpu().numpy(), gradient, self.gram.cpu().numpy(), self.levels
        start_threads()
        _descend(moved, *fixed, losses)
        return torch.from_numpy(moved).to(integers.device), torch.from_numpy(losses).to(integers.device)


def _choose_dtype(weight: Tensor) -> torch.dtype:
    is_small = max(weight.shape) * weight.shape[1] <= ROUNDED_IN_FLOAT64 and weight.device.type == "cpu"
    return torch.float64 if is_small else torch.float32


def _parts(weight: Tensor) -> Iterator[slice]:
    rows = max(1, ROWS_AT_ONCE // max(1, weight.shape[1]))
    return (slice(first, first + rows) for first in range(0, len(weight), rows))


def _positive(scales: Tensor) -> Tensor:
    return scales.clamp_min(torch.finfo(torch.float32).tiny)


def _largest_scales(weight: Tensor, levels: int) -> Tensor:
    """The scale at which the largest magnitude of a row is the last level; 1 for a row of zeros."""
    largest = weight.abs().amax(1).double()
    return torch.where(largest > 0, _positive((largest / levels).float()), 1.0)


def _nearest(weight: Tensor, scales: Tensor, levels: int) -> Tensor:
    """Whole numbers in the dtype of `weight`, ties to even."""
    return (weight / scales.to(weight.dtype)[:, None]).round_().clamp_(-levels, levels)


def _make_quadratic(gram: Tensor, cross: Tensor | None, damping: float) -> Quadratic:
    try:
        return Quadratic.of(gram, cross, damping)
    except LinAlgError as error:
        raise ValueError(
            "gram must be XᵀX, which has no negative eigenvalues. Got a matrix that is not positive definite with a "
            f"damping of {damping:g}. Give the sum of products of the layer's inputs, or more damping."
        ) from error


def _check(weight: Tensor, gram: Tensor, levels: int, **others: Tensor | None) -> None:
    n, k = weight.shape
    if not 1 <= levels <= LEVELS:
        raise ValueError(f"levels must be 1 to {LEVELS}, the largest integer of a symmetric int8 grid. Got {levels}.")
    shapes = {"weight": (n, k), "gram": (k, k), "target": (n, k), "cross": (k, k), "residual": (n, k)}
    for name, matrix in {"weight": weight, "gram": gram, **others}.items():
        if matrix is not None and tuple(matrix.shape) != shapes[name]:
            raise ValueError(f"{name} must have shape {shapes[name]} beside this weight. Got {tuple(matrix.shape)}.")
        if matrix is not None and not bool(torch.isfinite(matrix).all()):
            raise ValueError(f"{name} must be finite. Got NaN or Inf. Repair it before rounding.")


@_scalar
@no_type_check
def _find_best(cost: Any, slope: Any) -> int:
    """The entry whose move by one level gains most: the block that has it, by vector instructions, then the entry."""
    least, first = NEVER, 0
    for start in range(0, len(cost), BLOCK):
        costs, slopes = cost[start : start + BLOCK], slope[start : start + BLOCK]
        here = NEVER
        for k in range(len(costs)):
            change = costs[k] - abs(slopes[k])
            here = change if change < here else here  # noqa: FURB136 - numba's `min` is not vectorised
        if here < least:
            least, first = here, start
    for k in range(first, min(first + BLOCK, len(cost))):
        if cost[k] - abs(slope[k]) == least:
            return k
    return first


@_scalar
@no_type_check
def _free_one(cost: Any, slope: Any, integers: Any, goal: Any, curvature: Any) -> int:
    """Gives entries that waited at their last level their cost back; returns one that may move inwards now, or −1."""
    found = -1
    for k in range(len(cost)):
        if cost[k] == NEVER and goal[k] != 0:
            cost[k] = curvature[k]
            if integers[k] * slope[k] > 0 and cost[k] - abs(slope[k]) < -LEAST_GAIN * cost[k]:
                found = k
    return found


@_parallel
@no_type_check
def _descend(  # noqa: PLR0917 - compiled functions take no names
    integers: Any, scales: Any, goal: Any, gradient: Any, gram: Any, levels: int, losses: Any
) -> None:
    """Moves entries of every row by one level while that lowers its loss, in place; the largest gain first.

    A move by `±s` changes half the loss by `±s·g + s²·G/2`, with the gradient `g = (v−t)G` kept up to date in float64.
    An entry at its last level waits until nothing else can be gained, and is then looked at again.
    """
    columns = integers.shape[1]
    for row in numba.prange(integers.shape[0]):
        s = scales[row]
        slope = s * gradient[row].astype(np.float64)  # of half the loss, for a move by one level
        curvature = 0.5 * s * s * np.diag(gram).astype(np.float64)
        cost = np.where(goal[row] != 0, curvature, NEVER)
        for _ in range(MOST_MOVES * columns):
            k = _find_best(cost, slope)
            if cost[k] - abs(slope[k]) >= -LEAST_GAIN * cost[k]:
                k = _free_one(cost, slope, integers[row], goal[row], curvature)
                if k < 0:
                    break
            move = -1 if slope[k] > 0 else 1
            if abs(integers[row, k] + move) > levels:
                cost[k] = NEVER
                continue
            integers[row, k] += move
            by = move * s * s
            for j in range(columns):
                slope[j] += by * np.float64(gram[k, j])
        total = 0.0
        for k in range(columns):
            total += slope[k] / s * (s * integers[row, k] - goal[row, k])
        losses[row] = total
