"""Lets the masks of a solved network move, by the paper's operator and the gradient of the network's outputs."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.proximal_adam import ProximalAdam, keep_two_largest
from prox24_export.passes.refine.rate import FASTEST, JUDGES, STEPS, find_rate
from prox24_export.passes.refine.state import Part, TrainingState
from prox24_export.passes.refine.training import HeldMeasure, Training

TRIALS = 1 << 20  # number of the epoch whose batches are for the trials of the rate


def move_masks(
    adam: ProximalAdam,
    start: Mapping[str, Tensor],
    epoch: Callable[[int], Iterable[Any]],
    held: HeldMeasure,
    *,
    steps: int,
    planned: int,
    clock: Clock,
    note: Callable[[TrainingState], None],
    within: Callable[[TrainingState], None] = lambda _state: None,
    state: TrainingState | None = None,
) -> Part:
    """Takes proximal steps from a 2:4 solution, and ends at the 2:4 weights that held-back samples found best.

    What is judged after each epoch is what is left of the running mean of the weights when the two largest of each
    group are kept. Where no epoch is better than the start, the masks stay as they are.

    Args:
        adam: Takes the steps.
        start: The solution by name of the parameter, at most two of every group not zero.
        epoch: Returns the batches of an epoch by its number, which starts at 1.
        held: Measures weights: returns the objective of each held-back sample.
        steps: Number of batches in an epoch.
        planned: Number of steps.
        clock: Its limit ends the moving, to within one step.
        note: Called with the state after the start is measured and after each epoch.
        within: Called with the state after each step.
        state: The state that an interrupted run was given with the same arguments. It is changed in place.

    Returns:
        Weights that are 2:4, with the curve that led to them.
    """
    if state is None:
        rate = find_rate(adam, start, list(itertools.islice(repeat(epoch, TRIALS), STEPS + JUDGES)), clock)
        state = TrainingState.start(start, rate, max(rate, FASTEST), planned)

    def judge(weights: Mapping[str, Tensor]) -> Tensor:
        return held(keep_two_largest(weights, adam.groups))

    Training(adam, steps, planned, math.inf, clock).run(state, epoch, judge, note, within)
    weights = keep_two_largest(state.best, adam.groups)
    curve = tuple(state.curve)
    return Part(weights, curve, state.before, state.after, True, state.taken_back, limited=state.limited)


def repeat(epoch: Callable[[int], Iterable[Any]], first: int) -> Iterator[Any]:
    """Yields the batches of one epoch after the other."""
    for number in itertools.count(first):
        yield from epoch(number)
