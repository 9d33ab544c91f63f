"""Tunes the surviving weights of all pruned layers together, so that the network's outputs match the dense one's.

Solving layer by layer does not see what matters to the output. The masks stay as they are, and no labels are needed.
Held-back samples decide whether the result is kept.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, fx

from prox24_export.passes.refine.batches import Samples
from prox24_export.passes.refine.loss import Custom
from prox24_export.passes.refine.memory import find_available_memory, measure_kept_for_gradient
from prox24_export.passes.refine.objective import Objective, StreamPair
from prox24_export.passes.refine.segment_streams import SegmentStreams
from prox24_export.passes.refine.segments import add_outputs, find_cuts, find_segments
from prox24_export.passes.refine.training import (
    Epoch,
    HeldMeasure,
    Part,
    RefineProgress,
    Training,
    TrainingState,
    Weights,
)
from prox24_export.passes.refine.views import Inputs, Views

Which = Literal["weights", "weights+bias", "all"]
Mode = Literal["model", "segments", "auto"]
EpochTick = Callable[[float, Epoch], None]

STEPS, FEWEST, MOST = 360, 6, 20  # steps wanted; fewest and most epochs
BATCH, LEAST_BATCHES = 16, 4  # samples in a step; fewest steps in an epoch
MOST_OF_VIEWS, BATCH_OF_VIEWS = (
    30,
    32,
)  # most epochs and samples in a step where each epoch sees another view of an image
RATE_PER_ERROR, SLOWEST, FASTEST = 1 / 3, 1e-3, 3e-2  # learning rate by error; its limits
VIEW_BATCHES = 8  # batches on which the symmetry of the network is measured
SHARE_OF_MEMORY = 0.5  # share of the free memory that tuning the whole network at once may take
QUANTILE, QUANTILE_SLOPE = 1.28, 0.85  # Student's t, one-sided 10 %: about 1.28 + 0.85 / degrees of freedom


@dataclass(frozen=True)
class Refined:
    """The result of refinement.

    Attributes:
        weights: Float32 weights by name of the parameter: all that were given, and all others that moved. Pruned
            entries are +0.0. Where nothing is kept these are exactly the weights at the start.
        kept: Whether the refined weights are kept.
        before: Mean objective of the held-back samples at the start; NaN without such samples.
        after: Mean objective of the held-back samples with `weights`.
        parts: The whole network, or its segments in order, each with its curve and its decision.
        mode: Whether the network was tuned at once or by segments.
        seconds: Wall time in seconds.
        symmetric: Whether the target was what the dense network says about several views of each image together.
    """

    weights: Mapping[str, Tensor]
    kept: bool
    before: float
    after: float
    parts: Sequence[Part]
    mode: Mode
    seconds: float = 0.0
    symmetric: bool = False


@dataclass(frozen=True)
class RefineModel:
    """The pass that tunes the surviving weights, and its settings.

    Attributes:
        which: What moves. With `weights` these are the surviving weights of the pruned layers, with `weights+bias` also
            all vectors, and with `all` every float parameter.
        mode: How the network is tuned. With `model` everything is tuned together, with `segments` one block after the
            other in the memory of one block. `auto` takes `model` where it needs at most half of the free memory.
        custom: A measure of all outputs to use in place of the usual ones: (pruned, dense) → a scalar or one value per
            sample.
        epochs: Number of epochs. None takes about 360 steps in 6 to 20 epochs, or in 6 to 30 where a symmetric network
            sees views of images.
        rate: Relative learning rate. None takes a third of the mean normalised error at the cuts, from 0.001 to 0.03.
        batch: Number of samples in a step. None takes 16, or 32 where a symmetric network sees views of images, but at
            most a quarter of the samples.
        mixed: Whether float inputs of some samples are blended with others (`batches.mix`), and images shifted. This is
            done in model mode only.
        minutes: Limit of the time spent, in minutes. Only without a limit two runs give the same result.
        seed: Seed of the order of samples and of their blends.
    """

    which: Which = "weights"
    mode: Mode = "auto"
    custom: Custom | None = None
    epochs: int | None = None
    rate: float | None = None
    batch: int | None = None
    mixed: bool = True
    minutes: float | None = None
    seed: int = 0

    def call(
        self,
        *,
        dense: fx.GraphModule,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        fit: Sequence[Inputs],
        choice: Sequence[Inputs],
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
            joinable: Whether samples can be joined along the first axis of every input.
            tick: Called after each epoch with the share of the work that is done, and the epoch.
            progress: Progress of an interrupted run with the same arguments. It is changed in place.
            saved: Called after each epoch with the progress, which can be given as `progress` to a later run.

        Raises:
            ValueError: A weight has no parameter, or its mask has another shape.
        """
        started = time.perf_counter()
        self.requires(dense, weights, masks)
        start, masks = _move_to_device(dense, weights, masks)
        start |= {name: value for name, value in _find_moving(dense, self.which) if name not in start}
        if not fit:
            return Refined(start, False, math.nan, math.nan, (), "model")
        views = self._views(dense, Samples(fit, BATCH, joinable))
        batch, most = (BATCH_OF_VIEWS, MOST_OF_VIEWS) if views.symmetric else (BATCH, MOST)
        size = self.batch or max(1, min(batch, len(fit) // LEAST_BATCHES))
        tuned, held = Samples(fit, size, joinable), Samples(choice, size, joinable)
        epochs = self.epochs or min(most, max(FEWEST, round(STEPS / tuned.steps)))
        run = _Run(self, dense, start, masks, views, tuned, held, epochs, progress or RefineProgress(), tick, saved)
        return replace(run.result(), seconds=time.perf_counter() - started)

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
        device = _find_device(dense)
        batches = itertools.islice(samples.in_order(), VIEW_BATCHES)
        return Views.measure(lambda feeds: dense(*feeds), (_move(feeds, device) for feeds in batches))


@dataclass(frozen=True)
class _Tuned:
    """What is tuned.

    Attributes:
        objective: What is minimised.
        start: The weights it starts at, by name of the parameter.
        error: Mean normalised error at the start.
    """

    objective: Objective
    start: Weights
    error: float


@dataclass(frozen=True)
class _Run:
    """One call of the pass.

    Attributes:
        settings: The settings of the pass.
        dense: The dense network.
        start: The weights that move, at their start, by name of the parameter, on the network's device.
        masks: The masks of the solved weights by name of the parameter, on the same device.
        views: The views of images that may be used in model mode.
        fit: Samples to tune on.
        choice: Held-back samples.
        epochs: The most epochs.
        progress: How far the refinement is.
        tick: See `RefineModel.call`.
        saved: See `RefineModel.call`.
    """

    settings: RefineModel
    dense: fx.GraphModule
    start: Weights
    masks: Mapping[str, Tensor]
    views: Views
    fit: Samples
    choice: Samples
    epochs: int
    progress: RefineProgress
    tick: EpochTick
    saved: Callable[[RefineProgress], None]

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return _find_device(self.dense)

    @property
    def outputs(self) -> int:
        """The number of outputs of the network."""
        returned = next(node for node in self.dense.graph.nodes if node.op == "output").args[0]
        return len(returned) if isinstance(returned, (tuple, list)) else 1

    def result(self) -> Refined:
        """Refines the network at once or by segments, as the settings say."""
        return self._segments() if self._mode() == "segments" else self._model()

    def _mode(self) -> Mode:
        if self.settings.mode != "auto":
            return self.settings.mode
        objective = self._whole(self.start)[0]
        sample = _move(self.fit.samples[0], self.device)
        rows = self.fit.batch if self.fit.joinable else 1
        wanted = rows * measure_kept_for_gradient(objective, self.start, (sample, sample))
        return "model" if wanted <= SHARE_OF_MEMORY * find_available_memory(self.device) else "segments"

    def _model(self) -> Refined:
        """Tunes the whole network at once."""
        if self.progress.parts:
            return self._result(self.progress.parts, self.progress.parts[0], "model")
        views = self.views
        objective, error = self._whole(self.start, symmetric=views.symmetric)
        seed, mixed = self.settings.seed, self.settings.mixed
        part = self._part(
            _Tuned(objective, self.start, error),
            lambda epoch: self._pairs(self.fit.shuffled(epoch, seed, mixed=mixed, views=views)),
            objective.held(lambda: self._pairs(self.choice.in_order())),
            1,
        )
        return self._result([part], part, "model")

    def _segments(self) -> Refined:
        """Tunes one segment after the other. The outputs of the whole network then decide."""
        segments = find_segments(self.dense, self.start)
        fit = SegmentStreams(self.dense, segments, self.fit.shuffled(0, self.settings.seed, mixed=False), self.device)
        choice = SegmentStreams(self.dense, segments, self.choice.in_order(), self.device)
        parts = []
        for place, segment in enumerate(segments):
            weights = {name: self.start[name] for name in segment.weights}
            if place < len(self.progress.parts):
                part = self.progress.parts[place]
            else:
                outputs = self.outputs if place + 1 == len(segments) else 0
                objective, error = self._fitted(segment.module, weights, fit.pairs(segment), outputs)
                part = self._part(
                    _Tuned(objective, weights, error),
                    partial(fit.shuffled, segment, seed=self.settings.seed),
                    objective.held(partial(choice.pairs, segment)),
                    len(segments),
                )
            parts.append(part)
            if place + 1 < len(segments):
                fit.advance(place, segment, part.weights)
                choice.advance(place, segment, part.weights)
        weights = {name: weight for part in parts for name, weight in part.weights.items()}
        return self._result(parts, self._judged(self.start | weights), "segments")

    def _part(
        self,
        tuned: _Tuned,
        epoch: Callable[[int], Iterable[StreamPair]],
        held: HeldMeasure,
        parts: int,
    ) -> Part:
        """Trains one of `parts` networks or segments, and decides whether the result is kept."""
        minutes, done = self.settings.minutes, len(self.progress.parts)
        limit = None if minutes is None else 60 * minutes / parts
        rate = self.settings.rate or min(FASTEST, max(SLOWEST, RATE_PER_ERROR * tuned.error))
        masks = {name: mask for name, mask in self.masks.items() if name in tuned.start}
        training = Training(tuned.objective.of, masks, rate, self.epochs, self.fit.steps, limit)
        state = self.progress.state or TrainingState.of(tuned.start, masks)

        def note(state: TrainingState) -> None:
            self.progress.state = state
            self.saved(self.progress)
            share = (done + min(1.0, training.progress(state))) / parts
            self.tick(share, state.curve[-1])

        training.run(state, epoch, held, note)
        kept = improves(state.before, state.after)
        part = Part(state.best if kept else tuned.start, tuple(state.curve), state.before, state.after, kept)
        self.progress.parts.append(part)
        self.progress.state = None
        self.saved(self.progress)
        return part

    def _judged(self, weights: Weights) -> Part:
        """Judges the whole network with its refined segments."""
        objective, _ = self._whole(self.start)
        judge = objective.held(lambda: self._pairs(self.choice.in_order()))
        before, after = judge(self.start), judge(weights)
        return Part(weights, (), before, after, improves(before, after))

    def _result(self, parts: Sequence[Part], whole: Part, mode: Mode) -> Refined:
        before, after = (
            float(values.double().mean()) if len(values) else math.nan for values in (whole.before, whole.after)
        )
        weights = {name: _restore_zeros(weight, self.masks.get(name)) for name, weight in whole.weights.items()}
        if not whole.kept:
            weights, after = self.start, before
        symmetric = mode == "model" and self.views.symmetric
        return Refined(weights, whole.kept, before, after, parts, mode, symmetric=symmetric)

    def _whole(self, weights: Weights, *, symmetric: bool = False) -> tuple[Objective, float]:
        module = self.dense if symmetric else add_outputs(self.dense, find_cuts(self.dense, weights))
        return self._fitted(module, weights, self._pairs(self.fit.in_order()), self.outputs, symmetric=symmetric)

    def _fitted(
        self,
        module: fx.GraphModule,
        weights: Weights,
        pairs: Iterable[StreamPair],
        outputs: int,
        *,
        symmetric: bool = False,
    ) -> tuple[Objective, float]:
        custom = self.settings.custom if outputs else None
        objective = Objective(module, custom=custom, symmetric=symmetric)
        return objective.fitted(weights, pairs, outputs)

    def _pairs(self, batches: Iterable[Inputs]) -> Iterator[StreamPair]:
        for feeds in batches:
            moved = _move(feeds, self.device)
            yield moved, moved


def _find_device(module: fx.GraphModule) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _move(feeds: Inputs, device: torch.device) -> Inputs:
    return tuple(feed.to(device) for feed in feeds)


def improves(before: Float[Tensor, " samples"], after: Float[Tensor, " samples"]) -> bool:
    """Whether `after` is lower than `before` by more than noise, by a one-sided paired t-test at 10 %.

    The mean gain must exceed its standard error times the 90 % quantile of Student's t. With fewer than two samples
    nobody can tell, and the answer is no.
    """
    gains = (before - after).double()
    if len(gains) < 2 or not bool(torch.isfinite(gains).all()):  # noqa: PLR2004 (a deviation takes two)
        return False
    noise = float(gains.std()) / math.sqrt(len(gains))
    return float(gains.mean()) > (QUANTILE + QUANTILE_SLOPE / (len(gains) - 1)) * noise


def _move_to_device(
    dense: fx.GraphModule, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[Weights, dict[str, Tensor]]:
    """Moves weights, as float32, and their masks to the device of the network's parameters."""
    parameters = dict(dense.named_parameters())
    moved = {name: w.detach().to(parameters[name].device, torch.float32) for name, w in weights.items()}
    return moved, {name: masks[name].to(weight.device) for name, weight in moved.items()}


def _find_moving(dense: fx.GraphModule, which: Which) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters that move beside the solved weights, by name, as float32."""
    for name, parameter in dense.named_parameters():
        if parameter.is_floating_point() and (which == "all" or (which == "weights+bias" and parameter.ndim == 1)):
            yield name, parameter.detach().float()


def _restore_zeros(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Gives every pruned entry the value +0.0."""
    return weight if mask is None else torch.where(mask.bool(), weight, torch.zeros_like(weight))
