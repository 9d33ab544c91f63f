"""Takes one layer from its dense weight to a 2:4 weight: target, mask solver, masked refinement."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined] # documented, but missing from the stubs

from prox24_export.option_values import Effort, LayerMethod
from prox24_export.solver import baselines
from prox24_export.solver.admm import ProximalAdmm
from prox24_export.solver.driver import SOLVED_IN_FLOAT64, MaskSolver, find_masks
from prox24_export.solver.gradient import ProximalGradient
from prox24_export.solver.pattern import GROUP, is_two_four, two_four_mask
from prox24_export.solver.products import Products
from prox24_export.solver.quadratic import ENTRIES_AT_ONCE, Quadratic, automatic_damping
from prox24_export.solver.refine import ConjugateGradient, MaskedGradient
from prox24_export.solver.solution import (
    LayerSolution,
    LayerTask,
    OpenLayer,
    Piece,
    Rounding,
    Solve,
    Solved,
    Status,
    have_room,
    widen,
)

MASK_SOLVERS: dict[tuple[LayerMethod, Effort], MaskSolver[Any]] = {
    ("prox", "fast"): ProximalAdmm(0.3, 0.1, 1.5, 1.5, penalty_every=3, unsettled=1e-2, patience=1),
    ("prox", "default"): ProximalAdmm(),
    ("prox", "thorough"): ProximalAdmm(0.1, 0.01, 1.1, 1.1, 6, unsettled=1e-4, patience=2),
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
        products: Precision of the mask solver's products, and of the refinement's where they may be `bf16`.
        mask_solver: The iteration behind `prox` and `prox-gradient`; None chooses it by method, effort and products.
        refinement: How the surviving weights are found; None is conjugate gradient with the tolerance of the effort.
        halvings: How often the pieces in which rows are solved are halved, for a device with little room.
    """

    method: LayerMethod = "prox"
    effort: Effort = "default"
    damping: float | None = None
    blend: float = 1.0
    products: Products = "auto"
    mask_solver: MaskSolver[Any] | None = None
    refinement: ConjugateGradient | MaskedGradient | None = None
    halvings: int = 0

    def choose_refinement(self) -> ConjugateGradient | MaskedGradient:
        """The refinement that these settings choose."""
        products = "float32" if self.effort == "thorough" else self.products
        return self.refinement or ConjugateGradient(TOLERANCES[self.effort], products=products)

    def choose_mask_solver(self) -> MaskSolver[Any]:
        """The mask solver that these settings choose."""
        if self.mask_solver is not None:
            return self.mask_solver
        chosen = MASK_SOLVERS[self.method, self.effort]
        return replace(chosen, products=self.products)  # type: ignore[type-var] # every solver is a dataclass


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
        residual: As in `LayerTask`. All moments are moved to the device of `weight`.
        squared_norms: Diagonal of `X_dᵀX_d` for Wanda, which reads the dense network; None: that of `gram`.
        quadratic: `Quadratic.of(gram, cross, damping)` where the caller has it.
        rounding: As in `LayerTask`.

    Returns:
        The solution; `solution.weight` is 2:4 whatever the status says.

    Raises:
        ValueError: Shapes do not fit, K is not a multiple of 4, or an entry is NaN or Inf.
    """
    settings = settings or SolverSettings()
    task = LayerTask(weight, settings.blend, residual, rounding)
    moments = {"squared_norms": squared_norms, "quadratic": quadratic}
    return next(solve_layers([task], gram, cross, tokens, settings, **moments))  # type: ignore[arg-type] # by name


def solve_layers(
    tasks: Iterable[LayerTask],
    gram: Float[Tensor, "K K"],
    cross: Float[Tensor, "K K"] | None = None,
    tokens: int | None = None,
    settings: SolverSettings | None = None,
    *,
    squared_norms: Float[Tensor, " K"] | None = None,
    quadratic: Quadratic | None = None,
) -> Iterator[LayerSolution]:
    """Solves layers that read the same input, side by side, so that what is made of its Gram matrix is made once.

    Each solution is to the last bit the one that `solve_layer` gives for the layer alone. Rows of several layers, or of
    a part of a tall one, are held at a time: as many as the Gram matrix has, so that an inverse of it costs little
    beside the products, and their memory no more than a few such matrices.

    Args:
        tasks: The layers. A task is asked for when its turn comes.
        gram: As in `solve_layer`, as are all others.
        cross: See there.
        tokens: See there.
        settings: See there; their blend is not looked at.
        squared_norms: See there.
        quadratic: See there.

    Yields:
        The solutions, in order.

    Raises:
        ValueError: As `solve_layer`.
    """
    settings = settings or SolverSettings()
    method, halvings = _Method(gram, cross, tokens, settings, squared_norms, quadratic), settings.halvings
    waiting: deque[OpenLayer] = deque()
    pieces: list[Piece] = []
    for task in tasks:
        waiting.append(method.open(task))
        for piece in waiting[-1].cut(halvings):
            if not have_room(pieces, piece, halvings):
                method.solve(pieces)
                pieces.clear()
            pieces.append(piece)
        while waiting and not waiting[0].left:
            yield waiting.popleft().close()
    method.solve(pieces)
    pieces.clear()
    while waiting:
        yield waiting.popleft().close()


def _keep_rows(pieces: Sequence[Piece]) -> Iterator[Solved]:
    for piece in pieces:
        yield Solved(piece.rows, piece.rows)


def _apply_mask(mask: Callable[[Tensor], Tensor]) -> Solve:
    def solve(pieces: Sequence[Piece]) -> Iterator[Solved]:
        for rows in (piece.rows for piece in pieces):
            yield Solved(rows, torch.where(mask(rows), rows, 0.0))

    return solve


@dataclass
class _Method:
    """What all layers that read the same input share: the arguments of `solve_layers`, and whether they are checked."""

    gram: Float[Tensor, "K K"]
    cross: Float[Tensor, "K K"] | None
    tokens: int | None
    settings: SolverSettings
    squared_norms: Float[Tensor, " K"] | None
    quadratic: Quadratic | None
    checked: bool = False

    def open(self, task: LayerTask) -> OpenLayer:
        """Checks a layer and moves the moments to where it is.

        Raises:
            ValueError: As `solve_layer`.
        """
        started = time.perf_counter()
        weight = task.weight
        _check_weight(weight)
        for name, matrix in (("gram", self.gram), ("cross", self.cross)):
            _check_shape(name, matrix, weight.shape[1])
        if not self.checked:
            self._move(weight.device)
            self.checked = True
        solve, status = (_keep_rows, Status.ALREADY_SPARSE) if is_two_four(widen(weight)) else self._chosen
        wanted = weight if task.rows is None else weight[task.rows]
        solution, mask = torch.empty_like(wanted), torch.empty_like(wanted, dtype=torch.bool)
        layer = OpenLayer(task, solve, status, len(wanted), solution, mask)
        layer.seconds = time.perf_counter() - started
        return layer

    def _move(self, device: torch.device) -> None:
        self.gram = self.gram.to(device)
        self.cross = None if self.cross is None else self.cross.to(device)
        self.squared_norms = None if self.squared_norms is None else self.squared_norms.to(device)
        _check_finite("gram", self.gram)
        if self.cross is not None and self.cross is not self.gram:
            _check_finite("cross", self.cross)

    def solve(self, pieces: Sequence[Piece]) -> None:
        """Solves pieces, side by side where that helps, and hands each to its layer."""
        started = time.perf_counter()
        for solve in dict.fromkeys(piece.layer.solve for piece in pieces):
            alike = [piece for piece in pieces if piece.layer.solve is solve]
            for piece, solved in zip(alike, solve(alike), strict=True):
                piece.layer.take(piece, solved, self.gram)
        seconds, total = time.perf_counter() - started, sum(piece.size for piece in pieces)
        for piece in pieces:
            piece.layer.seconds += seconds * piece.size / total

    @cached_property
    def _chosen(self) -> tuple[Solve, Status]:
        """What solves rows, and what a layer is then said to be."""
        if self.settings.method in {"prox", "prox-gradient"}:
            return self._prepare_prox()
        return _prepare_baseline(self.gram, self.settings.method, self.squared_norms)

    def _prepare_prox(self) -> tuple[Solve, Status]:
        quadratic, settings = self.quadratic, self.settings
        if quadratic is None:
            damping = settings.damping
            if damping is None:
                damping = automatic_damping(self.tokens, len(self.gram))
            try:
                quadratic = Quadratic.of(self.gram, self.cross, damping)
            except LinAlgError:
                diagonal = self.gram.diagonal().clamp_min(0)
                return _apply_mask(lambda rows: baselines.wanda(rows, diagonal)), Status.FACTORISATION_FAILED
        if quadratic.degenerate:
            return _apply_mask(two_four_mask), Status.ZERO_GRAM
        known = quadratic

        def solve(pieces: Sequence[Piece]) -> Iterator[Solved]:
            targets = deque(_make_target(piece, known) for piece in pieces)
            grams: dict[torch.dtype, Tensor] = {}
            for masks in find_masks(settings.choose_mask_solver(), known, targets):
                target = targets.popleft()
                if target.dtype not in grams:
                    grams[target.dtype] = known.make_gram(target.dtype)
                gram = grams[target.dtype]
                refined, taken = settings.choose_refinement().solve(target, masks.mask, gram, masks.start)
                yield Solved(target, refined, masks.iterations, taken, not masks.settled)

        return solve, Status.SETTLED


def _make_target(piece: Piece, quadratic: Quadratic) -> Float[Tensor, "N K"]:
    """What rows should come close to, in float64 where they are few."""
    rows, blend = piece.rows, piece.layer.task.blend
    if max(rows.shape) * rows.shape[1] <= SOLVED_IN_FLOAT64:
        rows = rows.double()
    correction = quadratic.correction(rows, piece.residual) if blend else None
    return rows if correction is None else rows + (blend * correction).to(rows.dtype)


def _prepare_baseline(gram: Tensor, method: LayerMethod, squared_norms: Tensor | None) -> tuple[Solve, Status]:
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

    def solve(pieces: Sequence[Piece]) -> Iterator[Solved]:
        for rows in (piece.rows for piece in pieces):
            yield Solved(rows, sparsegpt.solve(rows))

    return solve, Status.DIRECT


def _check_weight(weight: Tensor) -> None:
    n, k = weight.shape
    if k % GROUP or not k:
        raise ValueError(f"weight must have K > 0 and K % {GROUP} == 0. Got shape [{n}, {k}]. Leave this layer dense.")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite. Got NaN or Inf.")


def _check_shape(name: str, matrix: Tensor | None, k: int) -> None:
    if matrix is not None and tuple(matrix.shape) != (k, k):
        raise ValueError(f"{name} must have shape (K, K) = ({k}, {k}). Got {tuple(matrix.shape)}.")


def _check_finite(name: str, matrix: Tensor) -> None:
    rows = max(1, ENTRIES_AT_ONCE // len(matrix))  # torch makes a copy of what it checks
    parts = [torch.isfinite(matrix[first : first + rows]).all() for first in range(0, len(matrix), rows)]
    if not bool(torch.stack(parts).all()):
        raise ValueError(f"{name} must be finite. Got NaN or Inf.")
