"""A layer to be solved, what comes of it, and the pieces of its rows in between."""

import enum
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prox24_export.solver.pattern import positive_zeros
from prox24_export.solver.quadratic import energy, loss

ROWS_AT_ONCE = 1 << 24  # most entries of W that are solved as one piece; rows are independent, so this bounds memory
Rounding = Callable[[Tensor, slice], Tensor]  # rows of a solved weight, and which rows they are → what can be stored


class Status(enum.Enum):
    """Why a layer's solver stopped; the value is the sentence the user reads."""

    SETTLED = "the masks settled"
    LIMIT = "the iteration limit was reached; remaining groups keep their two largest entries"
    DIRECT = "direct method: no iterations"
    ZERO_GRAM = "the layer's input is always zero: masks by magnitude"
    ALREADY_SPARSE = "the weight was 2:4 already"
    FACTORISATION_FAILED = "the Gram matrix could not be factorised; masks by magnitude scaled with input norms"


@dataclass(frozen=True)
class LayerTask:
    """A layer that is to be solved.

    Attributes:
        weight: `W` [N, K]; any float dtype.
        blend: As in `SolverSettings`.
        residual: `(r_d − rₛ)ᵀXₛ` [N, K] on the scale of the moments, for a branch `r` that is added to the layer's
            product and has moved away from the dense network's; the target then makes good for it too.
        rounding: Rounds solved rows to what can be stored, given which rows they are; zeros stay zeros. The loss is
            then that of the rounded weight. None leaves rows as they are.
        rows: One of the pieces that `cut_rows` gives: only this is solved, and the solution is that of these rows.
            None solves all of them.
    """

    weight: Float[Tensor, "N K"]
    blend: float = 1.0
    residual: Float[Tensor, "N K"] | None = None
    rounding: Rounding | None = None
    rows: slice | None = None


def cut_rows(height: int, width: int, halvings: int = 0) -> list[slice]:
    """Cuts the rows of a weight [height, width] into pieces of a bounded size, each about as tall as the others.

    Args:
        height: The number of rows.
        width: The number of columns.
        halvings: How often that size is halved.
    """
    most = max(1, (ROWS_AT_ONCE >> halvings) // width)
    rows = max(1, -(-height // max(1, -(-height // most))))
    return [slice(first, min(height, first + rows)) for first in range(0, height, rows)]


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
        energy: `tr(W gram Wᵀ)`; NaN where nobody has measured it.
    """

    weight: Float[Tensor, "N K"]
    mask: Bool[Tensor, "N K"]
    loss: float
    relative_error: float
    iterations: int
    refinement_iterations: int
    seconds: float
    status: Status
    energy: float = math.nan


def join_rows(pieces: Sequence[LayerSolution]) -> LayerSolution:
    """Joins the solutions of all pieces of a layer, in their order, to what solving it whole gives.

    Raises:
        ValueError: There is none.
    """
    if not pieces:
        raise ValueError("pieces must be those of a layer. Got none.")
    lost, energy = (sum((getattr(piece, name) for piece in pieces), 0.0) for name in ("loss", "energy"))
    return LayerSolution(
        weight=torch.cat([piece.weight for piece in pieces]),
        mask=torch.cat([piece.mask for piece in pieces]),
        loss=lost,
        relative_error=lost / energy if energy > 0 else 0.0,
        iterations=max(piece.iterations for piece in pieces),
        refinement_iterations=max(piece.refinement_iterations for piece in pieces),
        seconds=sum(piece.seconds for piece in pieces),
        status=next((piece.status for piece in pieces if piece.status is Status.LIMIT), pieces[0].status),
        energy=energy,
    )


def widen(weight: Tensor) -> Tensor:
    """The weight in the dtype that is computed in: float32, or float64 where it comes so."""
    return weight if weight.dtype == torch.float64 else weight.float()


@dataclass
class OpenLayer:
    """A layer that is being solved.

    Attributes:
        task: The layer.
        solve: What solves its rows.
        status: What it is said to be when all its rows are done.
        left: Rows that are not done.
        solution: 2:4 weight of the rows that are to be solved, as far as it is done.
        mask: Its mask.
        lost: Loss of the rows that are done.
        energy: `tr(W gram Wᵀ)` of the rows that are done.
        iterations: The most steps of the mask solver that rows took.
        refinements: The most steps of the refinement that rows took.
        seconds: Wall time that its rows took.
    """

    task: LayerTask
    solve: "Solve"
    status: Status
    left: int
    solution: Float[Tensor, "N K"]
    mask: Bool[Tensor, "N K"]
    lost: float = 0.0
    energy: float = 0.0
    iterations: int = 0
    refinements: int = 0
    seconds: float = 0.0

    def cut(self, halvings: int = 0) -> Iterator["Piece"]:
        """Cuts it into its pieces; see `cut_rows`."""
        height, width = self.task.weight.shape
        for part in cut_rows(height, width, halvings) if self.task.rows is None else [self.task.rows]:
            yield Piece(self, part)

    def take(self, piece: "Piece", solved: "Solved", gram: Float[Tensor, "K K"]) -> None:
        """Takes the solution of some of its rows."""
        part, rounding = piece.part, self.task.rounding
        rounded = solved.weight if rounding is None else rounding(solved.weight, part)
        weight = positive_zeros(rounded.to(self.solution.dtype))
        first = 0 if self.task.rows is None else self.task.rows.start
        place = slice(part.start - first, part.stop - first)
        self.solution[place], self.mask[place] = weight, weight != 0
        sums = torch.stack([energy(piece.rows, gram), loss(weight, solved.target, gram).sum()]).tolist()
        self.energy += sums[0]
        self.lost += sums[1]
        self.iterations = max(self.iterations, solved.iterations)
        self.refinements = max(self.refinements, solved.refinements)
        self.status = Status.LIMIT if solved.hit_the_limit else self.status
        self.left -= len(weight)

    def close(self) -> LayerSolution:
        """Makes the result when no row is left."""
        return LayerSolution(
            weight=self.solution,
            mask=self.mask,
            loss=self.lost,
            relative_error=self.lost / self.energy if self.energy > 0 else 0.0,
            iterations=self.iterations,
            refinement_iterations=self.refinements,
            seconds=self.seconds,
            status=self.status,
            energy=self.energy,
        )


@dataclass(frozen=True)
class Piece:
    """Rows of a layer that are solved as one.

    Attributes:
        layer: The layer.
        part: Which rows.
    """

    layer: OpenLayer
    part: slice

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(self.layer.task.weight[self.part].numel())

    @property
    def rows(self) -> Float[Tensor, "N K"]:
        """The rows of the weight, in the dtype that is computed in."""
        return widen(self.layer.task.weight[self.part])

    @property
    def residual(self) -> Float[Tensor, "N K"] | None:
        """The same rows of the residual; None where there is none."""
        residual = self.layer.task.residual
        return None if residual is None else residual[self.part].to(self.layer.solution.device)


@dataclass(frozen=True)
class Solved:
    """Rows that were solved.

    Attributes:
        target: What they should come close to.
        weight: 2:4 weight.
        iterations: Steps of the mask solver.
        refinements: Steps of the refinement.
        hit_the_limit: Whether the masks had not settled before the limit.
    """

    target: Float[Tensor, "N K"]
    weight: Float[Tensor, "N K"]
    iterations: int = 0
    refinements: int = 0
    hit_the_limit: bool = False


Solve = Callable[[Sequence[Piece]], Iterable[Solved]]


def have_room(pieces: Sequence[Piece], piece: Piece, halvings: int = 0) -> bool:
    """Whether a piece can be solved beside those at hand.

    Together they may have as many rows as the Gram matrix has: an inverse of that costs little beside their products,
    and their memory is that of a few such matrices.

    Args:
        pieces: Those at hand.
        piece: Another one.
        halvings: How often what they may take together is halved.
    """
    most = max(ROWS_AT_ONCE, piece.layer.solution.shape[1] ** 2) >> halvings
    return not pieces or sum(one.size for one in pieces) + piece.size <= most
