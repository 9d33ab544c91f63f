"""The training of a network or a segment: the rate rises while that helps, steps that harm are taken back."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from prox24_export.passes.refine.adam import MaskedAdam
from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.state import Epoch, TrainingState, Weights, copy_weights

HeldMeasure = Callable[[Mapping[str, Tensor]], Float[Tensor, " samples"]]

WARM_UP = 8  # steps over which the rate rises after a start
GROWTH, SHRINKING, CEILING = 1.5, 0.25, 2.0  # of the rate after a good and a bad epoch; of its ceiling after a bad one
WORST, WORST_OF_BEST = 1.02, 1.1  # a worse objective than this share of that at the start, or of the best, is bad
FALL = 0.3  # share of the steps over which the rate falls to zero
STILL_FALLS, RECENT, LONGER = 0.02, 1 / 3, 1.5  # gain in the last third of the epochs for which it goes on, and how far
FINISHING, GENTLE = 0.1, 0.1  # steps on all samples, as a share of those before; their rate, as a share of the last one
MOST_TAKEN_BACK = 6  # epochs; a smaller rate would change nothing


@dataclass(frozen=True)
class Training:
    """Trains under fixed masks, and judges the running mean of the weights on held-back samples after each epoch.

    The mean of the weights over an epoch is better than the weights themselves, which the noise of small batches moves
    about (Polyak and Juditsky, 1992). While it gets better the rate rises by half after each epoch. Where it gets worse
    than the start, the epoch is taken back, and the rate falls to a quarter. Over the last 30 % of the steps the rate
    falls to zero; before that, the number of steps grows as long as the held-back objective falls, and is not small.

    Attributes:
        adam: Takes the steps.
        steps: Number of batches in an epoch.
        most: The most steps.
        enough: A held-back objective for which no more steps are taken than planned.
        clock: Its limit ends the training, to within one step; the rate then falls in time.
    """

    adam: MaskedAdam
    steps: int
    most: int
    enough: float
    clock: Clock

    def run(
        self,
        state: TrainingState,
        epoch: Callable[[int], Iterable[Any]],
        held: HeldMeasure,
        done: Callable[[TrainingState], None],
        within: Callable[[TrainingState], None] = lambda _state: None,
    ) -> TrainingState:
        """Trains to the end. On a CPU, the same seed gives the same bytes where no limit of time is reached.

        Args:
            state: A new state, or that of an interrupted run. It is changed in place.
            epoch: Returns the batches of an epoch by its number, which starts at 1.
            held: Measures weights: returns the objective of each held-back sample.
            done: Called with the state after the start is measured and after each epoch.
            within: Called with the state after each step.

        Returns:
            The state that was given, after the last epoch.
        """
        if not state.curve:
            began = self.clock.seconds
            state.before = state.after = held(state.weights)
            state.judging = self.clock.seconds - began
            self._note(state, math.nan, state.before)
            done(state)
        if math.isnan(_mean(state.before)):  # no epoch could be told from a bad one
            return state
        pace = self._begin(state)
        while pace.progress(state) < 1 and state.taken_back < MOST_TAKEN_BACK:
            number = len(state.curve) + state.taken_back
            self._train(state, epoch(number), pace, within)
            if not state.losses:
                break
            values, losses, state.losses = held(state.average), state.losses, []
            if _is_bad(state, values):
                state.taken_back += 1
                state.go_back()
                state.rate *= SHRINKING
                state.ceiling = CEILING * state.rate
                continue
            if pace.is_steady(state) and _mean(values) <= state.curve[-1].held:
                state.rate = min(state.ceiling, state.rate * GROWTH)
            if _mean(values) < _mean(state.after):
                state.after, state.best = values, copy_weights(state.average)
            self._note(state, math.fsum(losses) / len(losses), values)
            if _still_falls(state) and _mean(state.after) > self.enough:
                state.planned = min(self.most, max(state.planned, round(LONGER * (state.step + self.steps))))
            done(state)  # a run may go on from here: nothing may be left to decide
        state.limited = pace.passed >= 1
        return state

    def finish(
        self,
        state: TrainingState,
        epoch: Callable[[int], Iterable[Any]],
        held: HeldMeasure,
        within: Callable[[TrainingState], None] = lambda _state: None,
    ) -> Weights:
        """Goes on from the best weights on all samples, those held back too, with a small rate that falls to zero.

        Args:
            state: The state after the last epoch, or that of a run that was interrupted here. It is changed in place,
                but for `best`.
            epoch: Returns the batches of an epoch of all samples by its number, which starts at 1.
            held: As for `run`.
            within: As for `run`.

        Returns:
            The weights at the end; the best ones where samples that were held back before are worse off than with them.
        """
        if state.finishing is None:
            state.go_back()
            state.finishing = state.step
        pace, began = self._begin(state), state.finishing
        steps = max(1, round(FINISHING * began))
        batches = itertools.chain.from_iterable(map(epoch, itertools.count(1)))
        for batch in itertools.islice(batches, state.step - began, None):
            taken = state.step - began
            late = pace.passed > (taken + 1) / steps  # else the clock decides nothing: same seed, same bytes
            share = 1 - (pace.passed if late else taken / steps)
            if share <= 0:
                break
            self.adam.step(state, batch, GENTLE * state.rate * share, horizon=self.steps * share)
            within(state)
        return state.average if _mean(held(state.average)) <= _mean(state.after) else state.best

    def _begin(self, state: TrainingState) -> "_Pace":
        """The pace from now on to the end, before which the last weights are judged, too."""
        return _Pace(self.clock.seconds, self.clock.limit - state.judging, self.clock)

    @staticmethod
    def _note(state: TrainingState, train: float, values: Tensor) -> None:
        state.curve.append(Epoch(len(state.curve), train, _mean(values)))

    def _train(
        self,
        state: TrainingState,
        batches: Iterable[Any],
        pace: "_Pace",
        within: Callable[[TrainingState], None],
    ) -> None:
        """Takes the steps of an epoch that are not taken yet, as far as there is time."""
        for batch in itertools.islice(batches, len(state.losses), None):
            share = pace.share(state)
            if share <= 0:
                return
            warm = min(1.0, (state.fresh + 1) / WARM_UP)
            state.losses.append(self.adam.step(state, batch, state.rate * warm * share, horizon=self.steps * share))
            within(state)


@dataclass(frozen=True)
class _Pace:
    """How far the training is, by its steps or by the clock, whichever is further."""

    began: float
    ends: float
    clock: Clock

    def progress(self, state: TrainingState) -> float:
        """The share of the training that is over."""
        return max(state.step / max(1, state.planned), self.passed)

    @property
    def passed(self) -> float:
        """The share of the time that is over."""
        return (self.clock.seconds - self.began) / (self.ends - self.began) if self.ends > self.began else 1.0

    def share(self, state: TrainingState) -> float:
        """What the rate is multiplied by: 1, and at the end less and less."""
        return min(1.0, (1 - self.progress(state)) / FALL)

    def is_steady(self, state: TrainingState) -> bool:
        """Whether the rate does not fall yet."""
        return self.progress(state) < 1 - FALL


def _is_bad(state: TrainingState, values: Tensor) -> bool:
    """Whether these objectives are no finite numbers, or in the mean worse than the start or the best one allows."""
    start, best = _mean(state.before), _mean(state.after)
    limit = min(start + (WORST - 1) * abs(start), best + (WORST_OF_BEST - 1) * abs(best))
    return not _mean(values) <= limit


def _still_falls(state: TrainingState) -> bool:
    """Whether the best held-back objective is from the last third of the epochs, and better by more than 2 %."""
    values = [point.held for point in state.curve]
    earlier = min(values[: len(values) - math.ceil(RECENT * len(values))], default=math.nan)
    return earlier - min(values) > STILL_FALLS * abs(earlier)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
