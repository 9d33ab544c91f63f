"""Takes one layer from its dense weight to a 2:4 weight: target, mask solver, masked refinement."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined] # documented, but missing from the stubs

from prox24_export.option_values import Effort, LayerMethod
from prox24_export.solver import baselines
from prox24_export.solver.admm import ProximalAdmm
from prox24_export.solver.driver import MaskSolver, find_mask
from prox24_export.solver.gradient import ProximalGradient
from prox24_export.solver.pattern import GROUP, is_two_four, positive_zeros, two_four_mask
from prox24_export.solver.products import Products
from prox24_export.solver.quadratic import Quadratic, automatic_damping, energy, loss
from prox24_export.solver.refine import ConjugateGradient, MaskedGradient

ROWS_AT_ONCE = 1 << 24  # most entries of W that are solved together; rows are independent, so this bounds memory
Rounding = Callable[[Tensor, slice], Tensor]  # rows of a solved weight, and which rows they are → what can be stored
REFINED_IN_FLOAT64 = 1 << 22  # entries of rows and Gram matrix up to which no rounding is carried to later layers


class Status(enum.Enum):
    """Why a layer's solver stopped; the value is the sentence the user reads."""

    SETTLED = "the masks settled"
    LIMIT = "the iteration limit was reached; remaining groups keep their two largest entries"
    DIRECT = "direct method: no iterations"
    ZERO_GRAM = "the layer's input is always zero: masks by magnitude"
    ALREADY_SPARSE = "the weight was 2:4 already"
    FACTORISATION_FAILED = "the Gram matrix could not be factorised; masks by magnitude scaled with input norms"


MASK_SOLVERS: dict[tuple[LayerMethod, Effort], MaskSolver[Any]] = {
    ("prox", "fast"): ProximalAdmm(0.3, 0.1, 1.5, 1.5, penalty_every=3, unsettled=1e-2, patience=1),
    ("prox", "default"): ProximalAdmm(),
    ("prox", "thorough"): ProximalAdmm(0.1, 0.01, 1.1, 1.1, unsettled=1e-4),
    ("prox-gradient", "fast"): ProximalGradient(strength_growth=1.1),
    ("prox-gradient", "default"): ProximalGradient(),
    ("prox-gradient", "thorough"): ProximalGradient(strength_growth=1.01),
}

TOLERANCES: dict[Effort, float] = {"fast": 1e-2, "default": 1e-3, "thorough": 1e-5}  # of the refinement


@dataclass(frozen=True)
class SolverSettings:
    """How a layer is solved.

    Attributes:
        method: `prox` (proximal ADMM), `prox-gradient` (the paper's), or a baseline.
        effort: How hard the mask solver works: more effort takes more time and leaves less error; see `MASK_SOLVERS`.
            Baselines know only one.
        damping: Share of the Gram matrix's mean diagonal that is added to it; None derives it from the tokens per
            dimension.
        blend: 0 aims at the weight, 1 at the dense network's output; only with `cross`.
        products: Precision of the mask solver's products.
        mask_solver: The iteration behind `prox` and `prox-gradient`; None chooses it by method, effort and products.
        refinement: How the surviving weights are found; None is conjugate gradient with the tolerance of the effort.
    """

    method: LayerMethod = "prox"
    effort: Effort = "default"
    damping: float | None = None
    blend: float = 1.0
    products: Products = "auto"
    mask_solver: MaskSolver[Any] | None = None
    refinement: ConjugateGradient | MaskedGradient | None = None

    def choose_refinement(self) -> ConjugateGradient | MaskedGradient:
        """The refinement that these settings choose."""
        return self.refinement or ConjugateGradient(TOLERANCES[self.effort])

    def choose_mask_solver(self) -> MaskSolver[Any]:
        """The mask solver that these settings choose."""
        if self.mask_solver is not None:
            return self.mask_solver
        chosen = MASK_SOLVERS[self.method, self.effort]
        return replace(chosen, products=self.products)  # type: ignore[type-var] # every solver is a dataclass


@dataclass(frozen=True)
class LayerSolution:
    """A solved layer.

    Attributes:
        weight: 2:4 weight [N, K], dtype and device of the input, +0.0 for pruned entries.
        mask: True where an entry survives.
        loss: `tr((V−T) gram (V−T)ᵀ)`, undamped, against the target `T`.
        relative_error: `loss` relative to `tr(W gram Wᵀ)`.
        iterations: Steps of the mask solver; 0 for direct methods. Each costs one product of W with a K × K matrix.
        refinement_iterations: Steps of the refinement, of the same cost for the rows that have not stopped.
        seconds: Wall time.
        status: Why the solver stopped.
    """

    weight: Float[Tensor, "N K"]
    mask: Bool[Tensor, "N K"]
    loss: float
    relative_error: float
    iterations: int
    refinement_iterations: int
    seconds: float
    status: Status


def solve_layer(
    weight: Float[Tensor, "N K"],
    gram: Float[Tensor, "K K"],
    cross: Float[Tensor, "K K"] | None = None,
    tokens: int | None = None,
    settings: SolverSettings | None = None,
    *,
    residual: Float[Tensor, "N K"] | None = None,
    squared_norms: Float[Tensor, " K"] | None = None,
    quadratic: Quadratic | None = None,
    rounding: Rounding | None = None,
) -> LayerSolution:
    """Makes one weight 2:4 along its last axis, with the least change of the layer's output.

    Args:
        weight: `W`; any float dtype.
        gram: `XₛᵀXₛ` of the layer's actual input, undamped; any scale.
        cross: `X_dᵀXₛ` on the same scale, with the dense network's input `X_d`; None where both inputs are the same.
        tokens: Rows of `X`, for the automatic damping.
        settings: How to solve; None means the defaults.
        residual: `(r_d − rₛ)ᵀXₛ` on the same scale, for a branch `r` that is added to the layer's product and has
            moved away from the dense network's; the target then makes good for it too. All moments are moved to the
            device of `weight`.
        squared_norms: Diagonal of `X_dᵀX_d` for Wanda, which reads the dense network; None: that of `gram`.
        quadratic: `Quadratic.of(gram, cross, damping)` where the caller shares it between layers.
        rounding: Rounds solved rows to what can be stored, given which rows they are; zeros stay zeros. The loss is
            then that of the rounded weight. None leaves rows as they are.

    Returns:
        The solution; `solution.weight` is 2:4 whatever the status says.

    Raises:
        ValueError: Shapes do not fit, K is not a multiple of 4, or an entry is NaN or Inf.
    """
    settings = settings or SolverSettings()
    started = time.perf_counter()
    gram = gram.to(weight.device)
    cross, residual, squared_norms = (
        None if moment is None else moment.to(weight.device) for moment in (cross, residual, squared_norms)
    )
    _check(weight, gram, cross)
    solve: _Solve
    if is_two_four(_widen(weight)):
        solve, status = _keep_rows, Status.ALREADY_SPARSE
    elif settings.method in {"prox", "prox-gradient"}:
        solve, status = _prepare_prox(weight.shape[1], gram, cross, tokens, settings, quadratic)
    else:
        solve, status = _prepare_baseline(gram, settings.method, squared_norms)
    solution = _solve_in_parts(weight, gram, residual, solve, status, rounding)
    return replace(solution, seconds=time.perf_counter() - started)


def _widen(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()


def _solve_in_parts(  # noqa: PLR0917 - as `solve_layer`, which passes them on
    weight: Tensor,
    gram: Tensor,
    residual: Tensor | None,
    solve: "_Solve",
    status: Status,
    rounding: Rounding | None,
) -> LayerSolution:
    """Solves a bounded number of rows at a time, and measures the whole; the seconds are left to the caller."""
    work = _widen(weight)
    solution, mask = torch.empty_like(weight), torch.empty_like(weight, dtype=torch.bool)
    lost = scale = 0.0
    iterations = refinements = 0
    rows = max(1, ROWS_AT_ONCE // max(1, weight.shape[1]))
    for first in range(0, len(weight), rows):
        part = slice(first, first + rows)
        piece = solve(work[part], None if residual is None else residual[part])
        rounded = piece.weight if rounding is None else rounding(piece.weight, part)
        solved = positive_zeros(rounded.to(weight.dtype))
        solution[part], mask[part] = solved, solved != 0
        scale += energy(work[part], gram)
        lost += float(loss(solved, piece.target, gram).sum())
        iterations = max(iterations, piece.iterations)
        refinements = max(refinements, piece.refinements)
        status = Status.LIMIT if piece.hit_the_limit else status
    return LayerSolution(
        weight=solution,
        mask=mask,
        loss=lost,
        relative_error=lost / scale if scale > 0 else 0.0,
        iterations=iterations,
        refinement_iterations=refinements,
        seconds=0.0,
        status=status,
    )


@dataclass(frozen=True)
class _Piece:
    """Rows that were solved: their target and their sparse weights."""

    target: Float[Tensor, "N K"]
    weight: Float[Tensor, "N K"]
    iterations: int = 0
    refinements: int = 0
    hit_the_limit: bool = False


_Solve = Callable[[Tensor, Tensor | None], _Piece]  # rows of the weight and of the residual → piece


def _keep_rows(rows: Tensor, _residual: Tensor | None) -> _Piece:
    return _Piece(rows, rows)


def _apply_mask(mask: Callable[[Tensor], Tensor]) -> _Solve:
    return lambda rows, _residual: _Piece(rows, torch.where(mask(rows), rows, 0.0))


def _prepare_prox(  # noqa: PLR0917 - as `solve_layer`, which passes them on
    columns: int,
    gram: Tensor,
    cross: Tensor | None,
    tokens: int | None,
    settings: SolverSettings,
    quadratic: Quadratic | None,
) -> tuple[_Solve, Status]:
    if quadratic is None:
        damping = automatic_damping(tokens, columns) if settings.damping is None else settings.damping
        try:
            quadratic = Quadratic.of(gram, cross, damping)
        except LinAlgError:
            diagonal = gram.diagonal().clamp_min(0)
            return _apply_mask(lambda rows: baselines.wanda(rows, diagonal)), Status.FACTORISATION_FAILED
    if quadratic.degenerate:
        return _apply_mask(two_four_mask), Status.ZERO_GRAM
    known = quadratic

    def gram_of(dtype: torch.dtype) -> Tensor:
        return known.gram_float32 if dtype == torch.float32 else known.gram.to(dtype)

    def solve(rows: Tensor, residual: Tensor | None) -> _Piece:
        is_small = max(rows.shape) * rows.shape[1] <= REFINED_IN_FLOAT64 and rows.device.type == "cpu"
        rows = rows.double() if is_small else rows
        correction = known.correction(rows, residual) if settings.blend else None
        target = rows if correction is None else rows + (settings.blend * correction).to(rows.dtype)
        masks = find_mask(settings.choose_mask_solver(), known, target)
        refined, taken = settings.choose_refinement().solve(target, masks.mask, gram_of(rows.dtype), masks.start)
        return _Piece(target, refined, masks.iterations, taken, not masks.settled)

    return solve, Status.SETTLED


def _prepare_baseline(gram: Tensor, method: LayerMethod, squared_norms: Tensor | None) -> tuple[_Solve, Status]:
    if method == "magnitude":
        return _apply_mask(baselines.magnitude), Status.DIRECT
    if method == "wanda":
        norms = gram.diagonal() if squared_norms is None else squared_norms
        return _apply_mask(lambda rows: baselines.wanda(rows, norms)), Status.DIRECT
    try:
        sparsegpt = baselines.SparseGpt.of(gram)
    except LinAlgError:
        diagonal = gram.diagonal().clamp_min(0)
        return _apply_mask(lambda rows: baselines.wanda(rows, diagonal)), Status.FACTORISATION_FAILED
    return lambda rows, _residual: _Piece(rows, sparsegpt.solve(rows)), Status.DIRECT


def _check(weight: Tensor, gram: Tensor, cross: Tensor | None) -> None:
    n, k = weight.shape
    if k % GROUP or not k:
        raise ValueError(f"weight must have K > 0 and K % {GROUP} == 0. Got shape [{n}, {k}]. Leave this layer dense.")
    for name, matrix in (("gram", gram), ("cross", cross)):
        if matrix is not None and tuple(matrix.shape) != (k, k):
            raise ValueError(f"{name} must have shape (K, K) = ({k}, {k}). Got {tuple(matrix.shape)}.")
        if matrix is not None and not bool(torch.isfinite(matrix).all()):
            raise ValueError(f"{name} must be finite. Got NaN or Inf.")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite. Got NaN or Inf.")
