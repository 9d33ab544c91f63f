"""Finds the learning rate on the model itself: a few trial steps, which are taken back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prox24_export.passes.refine.adam import MaskedAdam
from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.state import TrainingState

STEPS, JUDGES = 8, 4  # steps of a trial; batches on which it is judged
FASTEST, SLOWEST, FACTOR = 3e-2, 1e-5, 1 / 3  # the rates that are tried, and the way from one to the next
SHARE_OF_TIME = 0.15  # of the time that is left


def find_rate(adam: MaskedAdam, start: Mapping[str, Tensor], batches: Sequence[Any], clock: Clock) -> float:
    """Finds the relative rate at which a few steps lower the objective most, on batches that they do not see.

    The solution of the layers is a narrow valley of the objective: steps that suit a network trained from scratch leave
    it at once. The rates are tried from 0.03 downwards, each from the start, until a smaller one is worse.

    Args:
        adam: Takes the steps.
        start: The weights at which refinement starts, by name of the parameter.
        batches: Up to twelve batches. Of fewer, two thirds are for steps.
        clock: Trials end where they have taken 15 % of the time that is left.

    Returns:
        The rate; 1e-5 where no rate lowers the objective.
    """
    clock = clock.until(SHARE_OF_TIME)
    count = min(STEPS, max(1, len(batches) * STEPS // (STEPS + JUDGES)))
    steps, judges = batches[:count], batches[count : count + JUDGES] or batches[:1]
    best, found, rate = _measure(adam, start, judges), SLOWEST, FASTEST
    while rate >= SLOWEST and clock.left > 0:
        reached = _try_rate(adam, start, steps, judges, rate, clock)
        if reached < best:
            best, found = reached, rate
        elif found != SLOWEST:
            break
        rate *= FACTOR
    return found


def _try_rate(  # noqa: PLR0917 - what one trial is
    adam: MaskedAdam,
    start: Mapping[str, Tensor],
    steps: Sequence[Any],
    judges: Sequence[Any],
    rate: float,
    clock: Clock,
) -> float:
    """The objective after the steps; infinite where the time does not suffice for them."""
    state = TrainingState.start(start, rate, rate, len(steps))
    for batch in steps:
        if clock.left <= 0:
            return math.inf
        adam.step(state, batch, rate, horizon=1)
    return _measure(adam, state.weights, judges)


def _measure(adam: MaskedAdam, weights: Mapping[str, Tensor], batches: Sequence[Any]) -> float:
    with torch.no_grad():
        values = torch.cat([adam.objective(weights, batch).float().cpu() for batch in batches])
    mean = float(values.double().mean())
    return mean if math.isfinite(mean) else math.inf
