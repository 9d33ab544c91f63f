"""The loop around a mask solver: one driver for every iteration that has init, step and done."""

from typing import Protocol, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from prox24_export.solver.pattern import two_four_mask
from prox24_export.solver.quadratic import Quadratic


class MaskState(Protocol):
    """What the driver reads of a solver's state: the sparse iterate and how many steps were taken."""

    sparse: Tensor
    iteration: int


State = TypeVar("State", bound=MaskState)


class MaskSolver(Protocol[State]):
    """An iteration that drives every group of four to at most two non-zeros. Settings only; state is passed along."""

    @property
    def limit(self) -> int:
        """Most iterations."""

    def init(self, quadratic: Quadratic, target: Float[Tensor, "N K"]) -> State:
        """First state; `target` is in unit-diagonal coordinates, float32, of mean magnitude 1."""

    def step(self, quadratic: Quadratic, state: State) -> State:
        """One iteration."""

    def done(self, state: State) -> bool:
        """Whether the masks have settled."""


def find_mask(
    solver: MaskSolver[State], quadratic: Quadratic, target: Float[Tensor, "N K"]
) -> tuple[Bool[Tensor, "N K"], int, bool]:
    """Runs `solver` in unit-diagonal coordinates, weights of mean magnitude 1.

    Returns:
        The mask, exactly two entries a group; iterations; whether the masks had settled before the limit.
    """
    scaled = (target.double() * quadratic.scale).float()
    size = float(scaled.abs().mean())
    if size == 0:
        return two_four_mask(scaled), 0, True
    state = solver.init(quadratic, scaled / size)
    while state.iteration < solver.limit and not solver.done(state):
        state = solver.step(quadratic, state)
    return two_four_mask(state.sparse), state.iteration, solver.done(state)
