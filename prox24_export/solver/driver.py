"""The loop around a mask solver: one driver for every iteration that has init, step and done."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prox24_export.solver.pattern import two_four_mask
from prox24_export.solver.quadratic import Quadratic


class MaskState(Protocol):
    """What the driver reads of a solver's state: the sparse iterate and how many steps were taken."""

    sparse: Tensor
    iteration: int


SOLVED_IN_FLOAT64 = 1 << 19  # most entries of a target and its Gram matrix, which take a fraction of a second

StateType = TypeVar("StateType", bound=MaskState)


class MaskSolver(Protocol[StateType]):
    """An iteration that drives every group of four to at most two non-zeros.

    It holds settings only; its state is passed from step to step.
    """

    @property
    def limit(self) -> int:
        """The most iterations."""

    def init(self, quadratic: Quadratic, target: Float[Tensor, "N K"]) -> StateType:
        """Makes the first state.

        `target` is in unit-diagonal coordinates, of the type that `choose_working_dtype` gives, its rows of mean
        magnitude 1.
        """

    def step(self, quadratic: Quadratic, state: StateType) -> StateType:
        """One iteration."""

    def done(self, state: StateType) -> bool:
        """Whether the masks have settled."""


@dataclass(frozen=True)
class Masks:
    """The result of a mask solver.

    Attributes:
        mask: True for exactly two entries in every group.
        start: The sparse iterate in the coordinates and dtype of the target: close to the best weights on the mask.
        iterations: Steps taken.
        settled: Whether the masks had settled before the limit.
    """

    mask: Bool[Tensor, "N K"]
    start: Float[Tensor, "N K"]
    iterations: int
    settled: bool


def choose_working_dtype(target: Tensor) -> torch.dtype:
    """The dtype of the iteration: float64 for a small float64 target, else float32, which takes half the time.

    In float64 a rounding error of the runtime stays below what flips a mask; one flip changes what all later layers
    read. That goes for every device, so that masks of a small layer are the same on a GPU.
    """
    rows, columns = target.shape
    small = max(rows, columns) * columns <= SOLVED_IN_FLOAT64
    return torch.float64 if small and target.dtype == torch.float64 else torch.float32


def find_mask(solver: MaskSolver[StateType], quadratic: Quadratic, target: Float[Tensor, "N K"]) -> Masks:
    """Runs `solver` in unit-diagonal coordinates, with every row scaled to mean magnitude 1."""
    return next(find_masks(solver, quadratic, [target]))


def find_masks(
    solver: MaskSolver[StateType], quadratic: Quadratic, targets: Sequence[Float[Tensor, "N K"]]
) -> Iterator[Masks]:
    """Runs `solver` on several targets side by side, a step of each in turn, and gives their masks in order.

    So what a step needs of the Gram matrix is made once for all of them. Each has settled by itself: its masks are
    those that `find_mask` gives for it alone.
    """
    scale = quadratic.scale
    runs = deque(_Rows.of(solver, quadratic, target) for target in targets)
    unsettled = list(runs)
    while unsettled:
        for rows in unsettled:
            rows.state = solver.step(quadratic, rows.state)
        unsettled = [rows for rows in unsettled if rows.state.iteration < solver.limit and not solver.done(rows.state)]
    quadratic.forget_resolvents()
    while runs:
        rows = runs.popleft()
        sparse, dtype = rows.state.sparse, rows.size.dtype
        start = sparse.to(dtype) * (rows.size / scale.to(dtype))
        masks = Masks(two_four_mask(sparse), start, rows.state.iteration, solver.done(rows.state))
        del rows, sparse, start  # while these masks are used
        yield masks


@dataclass
class _Rows(Generic[StateType]):
    """Rows whose masks are looked for.

    Attributes:
        state: The solver's.
        size: Mean magnitude of each row in unit-diagonal coordinates, in the dtype of the target.
    """

    state: StateType
    size: Float[Tensor, "N 1"]

    @classmethod
    def of(
        cls, solver: MaskSolver[StateType], quadratic: Quadratic, target: Float[Tensor, "N K"]
    ) -> "_Rows[StateType]":
        """Makes the first state."""
        scaled = target * quadratic.scale.to(target.dtype)
        size = scaled.abs().mean(1, keepdim=True)
        size = size.where(size > 0, 1.0)
        dtype = choose_working_dtype(scaled)
        return cls(solver.init(quadratic, scaled.div_(size).to(dtype).contiguous()), size)
