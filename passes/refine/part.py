"""The training of one part, the whole network or a segment: its rate, its length, and whether the result is kept."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from prox24_export.passes.refine.adam import MaskedAdam
from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.improvement import find_least_gain, improves
from prox24_export.passes.refine.move_masks import TRIALS, repeat
from prox24_export.passes.refine.objective import Objective, StreamPair
from prox24_export.passes.refine.rate import FASTEST, JUDGES, STEPS, find_rate
from prox24_export.passes.refine.state import Epoch, Part, RefineProgress, TrainingState, Weights
from prox24_export.passes.refine.training import FINISHING, Training

EpochTick = Callable[[float, Epoch], None]
Batches = Callable[[], Iterable[StreamPair]]

ENOUGH, AGREEING = 0.5, 0.95  # objective, and share of equal arg-max, with which more steps than planned win nothing
TRAINING = 0.9  # share of the time for the training; the rest is for going on with all samples


@dataclass(frozen=True)
class Tuned:
    """A network or a segment that is tuned.

    Attributes:
        objective: What is minimised.
        start: The weights that it has to be better than, by name of the parameter.
        moved: What came of letting the masks move; None where they are fixed.
        seen: The objective at `start` of samples that it was solved on; empty where that need not be known.
        more: How many times as many samples `start` can be solved on where nothing is kept.
    """

    objective: Objective
    start: Weights
    moved: Part | None = None
    seen: Tensor = field(default_factory=lambda: torch.zeros(0))
    more: float = 1.0

    @property
    def begin(self) -> Weights:
        """The weights at which the tuning starts."""
        return self.start if self.moved is None else self.moved.weights

    def find_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Finds the masks of the weights at which the tuning starts: those given, or where these are, once moved."""
        begin = self.begin
        return {name: mask if self.moved is None else begin[name] != 0 for name, mask in masks.items() if name in begin}


@dataclass(frozen=True)
class PartTraining:
    """How parts are trained.

    Attributes:
        masks: Masks by name of the parameter, True where a weight survives, as long as they have not moved.
        steps: Number of batches in an epoch.
        planned: Number of steps.
        longest: How many times as many steps are taken at most, where the held-back objective still falls.
        anyway: Whether it goes on where there is little to win, too.
        rate: Relative learning rate at the start. None finds it by trial steps.
        clock: The time that is taken, and its limit.
        progress: How far the refinement is.
        tick: Called after each epoch with the share of the work that is done, and the epoch.
        saved: Called after each step and each epoch with the progress.
    """

    masks: Mapping[str, Tensor]
    steps: int
    planned: int
    longest: int
    anyway: bool
    rate: float | None
    clock: Clock
    progress: RefineProgress
    tick: EpochTick
    saved: Callable[[RefineProgress], None]

    def run(
        self,
        tuned: Tuned,
        epoch: Callable[[int], Iterable[StreamPair]],
        choice: Batches,
        *,
        everything: Callable[[int], Iterable[StreamPair]] | None = None,
        place: tuple[int, int],
    ) -> Part:
        """Trains a part and decides whether the result is kept.

        Where it is, the held-back samples of a whole network have done their work, and are learnt from, too. As far as
        there is no time for that, the result has to win more than the start would if it were solved on them. Those of a
        segment have still to judge the whole network.

        Args:
            tuned: The part.
            epoch: Returns the batches to tune on, by the number of the epoch, which starts at 1.
            choice: Returns the batches of held-back samples.
            everything: As `epoch`, with the held-back samples among the others; None for a segment.
            place: How many parts come before it, and how many there are.
        """
        (done, parts), held = place, tuned.objective.held(choice)
        share = (1.0 if everything is None else TRAINING) / (parts - done)
        clock = self.clock.until(share)

        def save(state: TrainingState) -> None:
            self.progress.state, self.progress.seconds = state, self.clock.seconds
            self.saved(self.progress)

        def note(state: TrainingState) -> None:
            save(state)
            self.tick((done + min(1.0, state.step / state.planned)) / parts, state.curve[-1])

        adam = MaskedAdam.of(tuned.objective.of, tuned.begin, tuned.find_masks(self.masks))
        state = self.progress.state or self._start(adam, tuned, epoch, clock)
        most, enough = self.planned * self.longest, self._find_enough(tuned, choice())
        training = Training(adam, self.steps, most, enough, clock)
        if state.finishing is None:
            training.run(state, epoch, held, note, save)
        before = state.before if tuned.moved is None else tuned.moved.before
        learnt = min(1.0, FINISHING * state.step / (self.steps * tuned.more))  # share of all samples, at the end
        least = (1 - learnt) * find_least_gain(before, tuned.seen, tuned.more)
        kept, weights = improves(before, state.after, least), tuned.start
        if kept:
            weights = state.best
        if kept and everything is not None:
            weights = replace(training, clock=self.clock).finish(state, everything, held, save)
        part = Part(weights, tuple(state.curve), before, state.after, kept, state.taken_back, limited=state.limited)
        if tuned.moved is not None:
            part = part.after_moving(tuned.moved)
        self.progress.parts.append(part)
        self.progress.state, self.progress.seconds = None, self.clock.seconds
        self.saved(self.progress)
        return part

    def _start(
        self, adam: MaskedAdam, tuned: Tuned, epoch: Callable[[int], Iterable[StreamPair]], clock: Clock
    ) -> TrainingState:
        trials = itertools.islice(repeat(epoch, TRIALS), STEPS + JUDGES)
        rate = self.rate or find_rate(adam, tuned.begin, list(trials), clock)
        return TrainingState.start(tuned.begin, rate, max(rate, FASTEST), self.planned)

    def _find_enough(self, tuned: Tuned, choice: Iterable[StreamPair]) -> float:
        """Finds the objective with which no more steps are taken than planned."""
        if self.anyway:
            return -math.inf
        agreement = tuned.objective.measure_agreement(tuned.begin, choice)
        if agreement is None:
            return ENOUGH
        return math.inf if agreement >= AGREEING else -math.inf
