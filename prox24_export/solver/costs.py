"""What a solve takes, estimated before it: its memory, its steps, and how often the Gram matrix is inverted."""

from collections.abc import Sequence
from dataclasses import dataclass

from prox24_export.option_values import Effort
from prox24_export.solver.driver import SOLVED_IN_FLOAT64
from prox24_export.solver.solution import ROWS_AT_ONCE

INVERSES: dict[Effort, int] = {"fast": 3, "default": 6, "thorough": 20}  # of the mask solver, for rows side by side
OPEN = 0.6  # of the rows of a layer have not stopped in the mean step of the refinement
MATRIX = 6  # bytes an entry of an inverse, or of the refinement's Gram matrix: float32, and its copy in bfloat16
ITERATES = 4  # float32 matrices of the size of the rows: two targets, the sparse iterate and the gap
REFINEMENT = 7  # matrices of the size of a piece that the refinement holds
SOLUTION = 5  # bytes an entry of what a layer is solved to, float32, and of its mask


@dataclass(frozen=True)
class SolveSteps:
    """How many steps a layer takes in the mean.

    With `default` they were 25 and 5 on a layer with 8,192 columns, 34 and 13 on the layers of KWT-1.

    Attributes:
        masks: Of the mask solver. The first one costs no product.
        refinement: Of the refinement, beside the product that it begins with.
    """

    masks: int
    refinement: int


STEPS: dict[Effort, SolveSteps] = {
    "fast": SolveSteps(8, 8),
    "default": SolveSteps(29, 9),
    "thorough": SolveSteps(110, 17),
}


def is_solved_in_float64(height: int, width: int) -> bool:
    """Whether a layer on the CPU is so small that it is iterated in float64."""
    return max(height, width) * width <= SOLVED_IN_FLOAT64


def estimate_solver_bytes(heights: Sequence[int], width: int) -> float:
    """Estimates the most bytes that are held while layers are solved that read the same input.

    Their weights and moments are not counted, and neither is the factor of the Gram matrix.

    Args:
        heights: Rows of each layer's weight.
        width: Columns of all of them.
    """
    entries = width * max(heights, default=0)
    piece = min(entries, ROWS_AT_ONCE)
    beside = min(width * sum(heights), max(ROWS_AT_ONCE, width**2))
    size = 8 if is_solved_in_float64(max(heights, default=0), width) else 4
    return (
        max(size, MATRIX) * width**2
        + 4.0 * ITERATES * beside
        + size * REFINEMENT * piece
        + SOLUTION * max(entries, beside)
    )


def count_inverses(heights: Sequence[int], width: int, effort: Effort) -> int:
    """Estimates how often the Gram matrix is inverted for layers that read the same input."""
    batches = -(-width * sum(heights) // max(ROWS_AT_ONCE, width**2))
    return batches * INVERSES[effort]
