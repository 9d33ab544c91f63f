"""The loop around a mask solver: one driver for every iteration that has init, step and done."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prox24_export.solver.pattern import two_four_mask
from prox24_export.solver.quadratic import Quadratic


class MaskState(Protocol):
    """What the driver reads of a solver's state: the sparse iterate and how many steps were taken."""

    sparse: Tensor
    iteration: int


ITERATED_IN_FLOAT64 = 1 << 19  # most entries of a target and its Gram matrix, which take a fraction of a second

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
    read.
    """
    rows, columns = target.shape
    small = max(rows, columns) * columns <= ITERATED_IN_FLOAT64 and target.device.type == "cpu"
    return torch.float64 if small and target.dtype == torch.float64 else torch.float32


def find_mask(solver: MaskSolver[StateType], quadratic: Quadratic, target: Float[Tensor, "N K"]) -> Masks:
    """Runs `solver` in unit-diagonal coordinates, with every row scaled to mean magnitude 1."""
    scale = quadratic.scale.to(target.dtype)
    scaled = target * scale
    size = scaled.abs().mean(1, keepdim=True)
    size = size.where(size > 0, 1.0)
    state = solver.init(quadratic, (scaled / size).to(choose_working_dtype(scaled)).contiguous())
    del scaled
    while state.iteration < solver.limit and not solver.done(state):
        state = solver.step(quadratic, state)
    start = state.sparse.to(target.dtype) * (size / scale)
    return Masks(two_four_mask(state.sparse), start, state.iteration, solver.done(state))
