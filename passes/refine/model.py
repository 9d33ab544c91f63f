"""Tunes the surviving weights of all pruned layers together, so that the network's outputs match the dense one's.

Solving layer by layer does not see what matters to the output. The masks stay as they are, and no labels are needed.
Held-back samples decide whether the result is kept.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, fx

from prox24_export.facts.free_memory import find_free_memory
from prox24_export.passes.refine.batches import ChainedInputs, Samples
from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.epochs import BATCH, choose_batch, plan_epochs
from prox24_export.passes.refine.improvement import find_least_gain, improves
from prox24_export.passes.refine.loss import Custom
from prox24_export.passes.refine.memory import measure_kept_for_gradient
from prox24_export.passes.refine.move_masks import move_masks
from prox24_export.passes.refine.moving import (
    Which,
    find_device,
    find_moving,
    move_feeds,
    move_to_device,
    restore_zeros,
)
from prox24_export.passes.refine.objective import Objective, StreamPair
from prox24_export.passes.refine.part import EpochTick, PartTraining, Tuned
from prox24_export.passes.refine.proximal_adam import GroupPlaces, ProximalAdam
from prox24_export.passes.refine.segment_streams import SegmentStreams
from prox24_export.passes.refine.segments import add_outputs, find_cuts, find_segments
from prox24_export.passes.refine.state import (
    Mode,
    Part,
    Refined,
    RefineProgress,
    Target,
    TrainingState,
    Weights,
)
from prox24_export.passes.refine.views import Inputs, Views

LONGEST = 10  # times as many steps are taken where the held-back objective still falls
FEWEST_HELD = 2  # samples that can decide: a deviation takes two
MOVING = 0.4  # share of the time in which masks move
VIEW_BATCHES = 8  # batches on which the symmetry of the network is measured
SHARE_OF_MEMORY = 0.5  # share of the free memory that tuning the whole network at once may take


@dataclass(frozen=True)
class RefineModel:
    """The pass that tunes the surviving weights, and its settings.

    Attributes:
        which: What moves. With `weights` these are the surviving weights of the pruned layers, with `weights+bias` also
            all vectors, and with `all` every float parameter.
        mode: How the network is tuned. With `model` everything is tuned together, with `segments` one block after the
            other in the memory of one block. `auto` takes `model` where it needs at most half of the free
            memory, and of `memory`.
        target: What the outputs should be. With `dense` these are the dense network's outputs. With `views` these are
            what it says of several views of an image together, if it takes them for the same image; else as `dense`.
        custom: A measure of all outputs to use in place of the usual ones: (pruned, dense) → a scalar or one value per
            sample.
        epochs: Number of epochs. None takes about 360 steps in 6 to 20 epochs, or in 6 to 30 where views are the
            target, and up to ten times as many steps as long as the held-back objective falls, if there is much to win:
            if less than 95 % of the arg-max agree before, or, without classes, while the objective is above 0.5.
        thorough: Whether it goes on as long as the held-back objective falls, however little there is to win.
        rate: Relative learning rate at the start. None finds it by trial steps.
        batch: Number of samples in a step. None takes 16, or 32 where views are the target, but at most a quarter of
            the samples.
        halvings: How often such a batch is halved, for a device with little room; one sample is the least.
        mixed: Whether float inputs of some samples are blended with others (`batches.mix`), and images shifted. This is
            done in model mode only.
        minutes: The most time that all of it may take, in minutes. Two runs give the same result only where it
            suffices.
        seed: Seed of the order of samples and of their blends.
        memory: The most bytes that may be taken of the host's memory.
    """

    which: Which = "weights"
    mode: Mode = "auto"
    target: Target = "dense"
    custom: Custom | None = None
    epochs: int | None = None
    thorough: bool = False
    rate: float | None = None
    batch: int | None = None
    halvings: int = 0
    mixed: bool = True
    minutes: float | None = None
    seed: int = 0
    memory: float = math.inf

    def call(
        self,
        *,
        dense: fx.GraphModule,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        fit: Sequence[Inputs],
        choice: Sequence[Inputs],
        fixed: Mapping[str, Tensor] | None = None,
        groups: GroupPlaces | None = None,
        joinable: bool = True,
        tick: EpochTick = lambda _share, _epoch: None,
        progress: RefineProgress | None = None,
        saved: Callable[[RefineProgress], None] = lambda _progress: None,
    ) -> Refined:
        """Tunes the surviving weights together. The result is kept only if held-back samples say that it is better.

        Args:
            dense: The network, `forward(*inputs) -> tuple of tensors`, with its dense parameters, on the device to use.
            weights: Solved weights by name of the parameter, in its shape and any float type.
            masks: Masks by the same names and in the same shapes, True where a weight survives.
            fit: Samples to tune on. Each has a tensor for every input.
            choice: Held-back samples, which decide. They should not have been used to solve the weights either, or the
                comparison favours the solved weights. With fewer than two samples nothing is kept.
            fixed: What buffers of the network hold in the pruned network, by their names. They stay as they are.
            groups: The groups of each weight whose masks may move before the tuning; see `ProximalAdam`. This is done
                in model mode only. None leaves the masks as they are.
            joinable: Whether samples can be joined along the first axis of every input.
            tick: Called after each epoch with the share of the work that is done, and the epoch.
            progress: Progress of an interrupted run with the same arguments. It is changed in place.
            saved: Called after each step and each epoch with the progress, which can be given as `progress` to a later
                run.

        Raises:
            ValueError: A weight has no parameter, or its mask has another shape.
        """
        progress = progress or RefineProgress()
        clock = Clock(math.inf if self.minutes is None else 60 * self.minutes, progress.seconds)
        self.requires(dense, weights, masks)
        start, masks = move_to_device(dense, weights, masks)
        start |= {name: value for name, value in find_moving(dense, self.which) if name not in start}
        if not fit or len(choice) < FEWEST_HELD:
            return Refined(start, False, math.nan, math.nan, (), "model")
        views = self._views(dense, Samples(fit, BATCH, joinable))
        together = self.target == "views" and views.symmetric
        size = max(1, (self.batch or choose_batch(len(fit), together=together)) >> self.halvings)
        tuned, held = Samples(fit, size, joinable), Samples(choice, size, joinable)
        epochs = self.epochs or plan_epochs(tuned.steps, together=together)
        groups = {name: places.to(start[name].device) for name, places in (groups or {}).items()}
        fixed = {name: value.to(dense.get_buffer(name)) for name, value in (fixed or {}).items()}
        run = _Run(
            self, dense, start, masks, fixed, groups, views, together, tuned, held, epochs, clock, progress, tick, saved
        )
        return replace(run.result(), seconds=clock.seconds)

    @staticmethod
    def requires(dense: fx.GraphModule, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """Expects every weight to be a parameter of the network, with a mask of its shape.

        Raises:
            ValueError: A weight is no parameter, has another shape than its parameter, or has no mask of its shape.
        """
        parameters = dict(dense.named_parameters())
        for name, weight in weights.items():
            if name not in parameters or parameters[name].shape != weight.shape:
                got = f"{name} of shape {tuple(weight.shape)}"
                raise ValueError(f"weights must be parameters of the module. Got {got}.")
            if name not in masks or masks[name].shape != weight.shape:
                raise ValueError(f"masks must have the shape of their weight. Got none such for {name}.")

    def _views(self, dense: fx.GraphModule, samples: Samples) -> Views:
        """Measures which views of images may be used; none where views were not asked for."""
        if not self.mixed or self.custom is not None or self.mode == "segments":
            return Views()
        device = find_device(dense)
        batches = itertools.islice(samples.in_order(), VIEW_BATCHES)
        return Views.measure(lambda feeds: dense(*feeds), (move_feeds(feeds, device) for feeds in batches))


@dataclass(frozen=True)
class _Run:
    """One call of the pass.

    Attributes:
        settings: The settings of the pass.
        dense: The dense network.
        start: The weights that move, at their start, by name of the parameter, on the network's device.
        masks: The masks of the solved weights by name of the parameter, on the same device.
        fixed: What buffers hold in the pruned network, by their names, on the same device.
        groups: The groups of weights whose masks may move in model mode, by name of the parameter.
        views: The views of images that may be used in model mode.
        together: Whether what the dense network says of views together is the target in model mode.
        fit: Samples to tune on.
        choice: Held-back samples.
        epochs: The number of epochs that are planned.
        clock: The time that is taken, and its limit.
        progress: How far the refinement is.
        tick: See `RefineModel.call`.
        saved: See `RefineModel.call`.
    """

    settings: RefineModel
    dense: fx.GraphModule
    start: Weights
    masks: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    groups: GroupPlaces
    views: Views
    together: bool
    fit: Samples
    choice: Samples
    epochs: int
    clock: Clock
    progress: RefineProgress
    tick: EpochTick
    saved: Callable[[RefineProgress], None]

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return find_device(self.dense)

    @property
    def _training(self) -> PartTraining:
        """What trains the network or its segments."""
        settings = self.settings
        return PartTraining(
            masks=self.masks,
            steps=self.fit.steps,
            planned=self.epochs * self.fit.steps,
            longest=1 if settings.epochs else LONGEST,
            anyway=settings.thorough or settings.custom is not None,
            rate=settings.rate,
            clock=self.clock,
            progress=self.progress,
            tick=self.tick,
            saved=self.saved,
        )

    @property
    def outputs(self) -> int:
        """The number of outputs of the network."""
        returned = next(node for node in self.dense.graph.nodes if node.op == "output").args[0]
        return len(returned) if isinstance(returned, (tuple, list)) else 1

    def result(self) -> Refined:
        """Refines the network at once or by segments, as the settings say."""
        self.progress.mode = self.progress.mode or self._mode()
        return self._segments() if self.progress.mode == "segments" else self._model()

    def _mode(self) -> Mode:
        if self.settings.mode != "auto":
            return self.settings.mode
        objective = self._whole()
        sample = move_feeds(self.fit.samples[0], self.device)
        rows = self.fit.batch if self.fit.joinable else 1
        wanted = rows * measure_kept_for_gradient(objective, self.start, (sample, sample))
        limit = self.settings.memory if self.device.type == "cpu" else math.inf
        return "model" if wanted <= SHARE_OF_MEMORY * min(find_free_memory(self.device), limit) else "segments"

    def _model(self) -> Refined:
        """Tunes the whole network at once, after its masks have moved, if they may."""
        if self.progress.parts:
            return self._result(self.progress.parts, self.progress.parts[0], "model")
        objective = self._whole(together=self.together)
        seed, mixed = self.settings.seed, self.settings.mixed
        everything = replace(self.fit, samples=ChainedInputs(self.fit.samples, self.choice.samples))

        def epoch(number: int, samples: Samples = self.fit) -> Iterator[StreamPair]:
            return self._pairs(samples.shuffled(number, seed, mixed=mixed, views=self.views))

        def choice() -> Iterator[StreamPair]:
            return self._pairs(self.choice.in_order())

        moved = self._moved(objective, epoch, choice) if self.groups else None
        part = self._training.run(
            Tuned(objective, self.start, moved, self._measure_seen(objective), self._more),
            epoch,
            choice,
            everything=partial(epoch, samples=everything),
            place=(0, 1) if moved is None else (1, 2),
        )
        return self._result([part], part, "model")

    def _moved(
        self,
        objective: Objective,
        epoch: Callable[[int], Iterable[StreamPair]],
        choice: Callable[[], Iterable[StreamPair]],
    ) -> Part:
        """Lets the masks move; goes on where an interrupted run has stopped, or takes what came of it."""

        def save(state: TrainingState) -> None:
            self.progress.state, self.progress.seconds = state, self.clock.seconds
            self.saved(self.progress)

        def note(state: TrainingState) -> None:
            save(state)
            self.tick(min(1.0, state.step / state.planned) / 2, state.curve[-1])

        if self.progress.moved is None:
            adam = ProximalAdam.with_groups(objective.of, self.start, self.groups)
            self.progress.moved = move_masks(
                adam,
                self.start,
                epoch,
                objective.held(choice),
                steps=self.fit.steps,
                planned=self.epochs * self.fit.steps,
                clock=self.clock.until(MOVING),
                note=note,
                within=save,
                state=self.progress.state,
            )
            self.progress.state, self.progress.seconds = None, self.clock.seconds
            self.saved(self.progress)
        return self.progress.moved

    def _segments(self) -> Refined:
        """Tunes one segment after the other. The outputs of the whole network then decide."""
        segments = find_segments(self.dense, {*self.start, *self.fixed})
        fit = SegmentStreams(self.dense, segments, self.fit.shuffled(0, self.settings.seed, mixed=False), self.device)
        choice = SegmentStreams(self.dense, segments, self.choice.in_order(), self.device)
        parts = []
        for place, segment in enumerate(segments):
            weights = {name: self.start[name] for name in segment.weights if name in self.start}
            fixed = {name: self.fixed[name] for name in segment.weights if name in self.fixed}
            if place < len(self.progress.parts):
                part = self.progress.parts[place]
            elif not weights:  # all that differs here is fixed
                part = Part({}, (), torch.zeros(0), torch.zeros(0), kept=False)
                self.progress.parts.append(part)
            else:
                outputs = self.outputs if place + 1 == len(segments) else 0
                objective = self._fitted(segment.module, fit.pairs(segment), outputs, fixed)
                part = self._training.run(
                    Tuned(objective, weights),
                    partial(fit.shuffled, segment, seed=self.settings.seed),
                    partial(choice.pairs, segment),
                    place=(place, len(segments)),
                )
            parts.append(part)
            if place + 1 < len(segments):
                fit.advance(place, segment, part.weights, fixed)
                choice.advance(place, segment, part.weights, fixed)
        weights = {name: weight for part in parts for name, weight in part.weights.items()}
        return self._result(parts, self._judged(self.start | weights), "segments")

    def _judged(self, weights: Weights) -> Part:
        """Judges the whole network with its refined segments."""
        objective = self._whole()
        judge = objective.held(lambda: self._pairs(self.choice.in_order()))
        before, after = judge(self.start), judge(weights)
        least = find_least_gain(before, self._measure_seen(objective), self._more)
        return Part(weights, (), before, after, improves(before, after, least))

    @property
    def _more(self) -> float:
        """How many times as many samples there are with those that are held back."""
        return (len(self.fit) + len(self.choice)) / len(self.fit)

    def _measure_seen(self, objective: Objective) -> Tensor:
        """Measures the start on some of the samples that it was solved on, as many batches as are held back."""
        batches = list(itertools.islice(self.fit.in_order(), self.choice.steps))
        return objective.held(lambda: self._pairs(batches))(self.start)

    def _result(self, parts: Sequence[Part], whole: Part, mode: Mode) -> Refined:
        before, after = (
            float(values.double().mean()) if len(values) else math.nan for values in (whole.before, whole.after)
        )
        weights = dict(whole.weights)
        for name in self.masks:
            weights[name] = restore_zeros(weights[name], self._find_mask(name, weights[name]))
        if not whole.kept:
            weights, after = self.start, before
        target: Target = "views" if mode == "model" and self.together else "dense"
        return Refined(weights, whole.kept, before, after, parts, mode, target=target)

    def _find_mask(self, name: str, weight: Tensor) -> Tensor:
        """Finds the mask of a weight at the end: where it is not zero, if it may have moved."""
        return self.masks[name] if self.progress.moved is None else weight != 0

    def _whole(self, *, together: bool = False) -> Objective:
        module = self.dense if together else add_outputs(self.dense, find_cuts(self.dense, {*self.start, *self.fixed}))
        return self._fitted(module, self._pairs(self.fit.in_order()), self.outputs, self.fixed, together=together)

    def _fitted(
        self,
        module: fx.GraphModule,
        pairs: Iterable[StreamPair],
        outputs: int,
        fixed: Mapping[str, Tensor],
        *,
        together: bool = False,
    ) -> Objective:
        custom = self.settings.custom if outputs else None
        return Objective(module, custom=custom, together=together, fixed=fixed).fitted(pairs, outputs)

    def _pairs(self, batches: Iterable[Inputs]) -> Iterator[StreamPair]:
        for feeds in batches:
            moved = move_feeds(feeds, self.device)
            yield moved, moved
