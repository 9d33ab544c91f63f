"""Adam under fixed masks. The state between two epochs can be saved, and a later run can go on from it."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Weights = dict[str, Tensor]
HeldMeasure = Callable[[Mapping[str, Tensor]], Float[Tensor, " samples"]]
PerSample = Callable[[Mapping[str, Tensor], Any], Float[Tensor, " samples"]]

FIRST, SECOND, SMALL = 0.9, 0.95, 1e-12  # decay of Adam's moments; what keeps it from dividing by zero
WARM_UP = 0.1  # share of the steps over which the rate rises
MATRIX, WIDTH = 2, 64  # axes of a matrix; reduction dimension at which a step is the relative rate


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve.

    Attributes:
        number: Number of the epoch. 0 is the start, before the first step.
        train: Mean objective over the epoch's batches; NaN for epoch 0.
        held: Mean objective of the held-back samples after the epoch; NaN where there are none.
    """

    number: int
    train: float
    held: float


@dataclass
class TrainingState:
    """The state of a training between two epochs. All weights and moments are float32, by name of the parameter.

    Attributes:
        weights: The weights as they are now.
        first: Adam's running mean of the gradients.
        second: Adam's running mean of the squared gradients.
        best: The weights after the epoch that was best on the held-back samples.
        scales: Size of a step at a relative rate of 1, by name of the parameter.
        before: Objective of each held-back sample at the start.
        after: Objective of each held-back sample with `best`.
        step: Number of steps done.
        seconds: Time spent, in seconds.
        curve: Epochs done, the start included.
    """

    weights: Weights
    first: Weights
    second: Weights
    best: Weights
    scales: dict[str, float]
    before: Tensor
    after: Tensor
    step: int = 0
    seconds: float = 0.0
    curve: list[Epoch] = field(default_factory=list)

    @staticmethod
    def of(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> "TrainingState":
        """The state at the start, with float32 copies of the weights. Without a mask every weight survives."""
        masters = {name: weight.detach().float().clone() for name, weight in weights.items()}
        zeros = {name: torch.zeros_like(weight) for name, weight in masters.items()}
        moments = [{name: zero.clone() for name, zero in zeros.items()} for _ in range(2)]
        best = {name: weight.clone() for name, weight in masters.items()}
        scales = {name: _find_step_size(weight, masks.get(name)) for name, weight in masters.items()}
        return TrainingState(masters, moments[0], moments[1], best, scales, torch.zeros(0), torch.zeros(0))


@dataclass(frozen=True)
class Part:
    """A network or a segment that is done.

    Attributes:
        weights: Float32 weights by name of the parameter: the refined ones if they are kept, else those at the start.
        curve: Every epoch, the start included.
        before: Objective of each held-back sample at the start.
        after: Objective of each held-back sample with the weights of the best epoch.
        kept: Whether the refined weights are kept.
    """

    weights: Weights
    curve: tuple[Epoch, ...]
    before: Tensor
    after: Tensor
    kept: bool


@dataclass
class RefineProgress:
    """How far a refinement is between two epochs.

    Attributes:
        parts: Segments that are done; a whole network counts as one part.
        state: State of the part in work; None before its start.
    """

    parts: list[Part] = field(default_factory=list)
    state: TrainingState | None = None

    def save(self, path: Path) -> None:
        """Writes the progress to a file, which appears whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        partial = path.with_name(path.name + ".partial")
        torch.save(_make_plain(self), partial)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> "RefineProgress":
        """Reads a file that `save` wrote.

        Raises:
            OSError: The file cannot be read.
        """
        stored = torch.load(path, weights_only=True)
        parts = [Part(**part | {"curve": tuple(Epoch(**epoch) for epoch in part["curve"])}) for part in stored["parts"]]
        state = stored["state"]
        if state is not None:
            state = TrainingState(**state | {"curve": [Epoch(**epoch) for epoch in state["curve"]]})
        return RefineProgress(parts, state)


@dataclass(frozen=True)
class Training:
    """A training with Adam (Kingma and Ba, 2015) under fixed masks.

    The size of a step of each tensor is `rate` times the root mean square of its surviving weights at the start, times
    √(64 / K) for a reduction dimension K: Adam moves all K weights of an output at once, and so one rate fits every
    width. The rate rises over the first tenth of the run and falls to zero along a cosine. Gradients are multiplied by
    the masks, so that a pruned weight never leaves +0.0.

    Attributes:
        objective: What is minimised: a function of weights and a batch that returns one value per sample.
        masks: Masks by name of the parameter, True where a weight survives. Parameters without a mask move as a whole.
        rate: Relative learning rate.
        epochs: The most epochs.
        steps: Number of batches in an epoch.
        limit: The most seconds; None where there is no limit. With a limit, the cosine follows the clock where that is
            further than the steps.
    """

    objective: PerSample
    masks: Mapping[str, Tensor]
    rate: float
    epochs: int
    steps: int
    limit: float | None = None

    def run(
        self,
        state: TrainingState,
        epoch: Callable[[int], Iterable[Any]],
        held: HeldMeasure,
        done: Callable[[TrainingState], None],
    ) -> TrainingState:
        """Trains to the end. On a CPU the same seed gives the same bytes.

        Args:
            state: A new state, or that of an interrupted run. It is changed in place.
            epoch: Returns the batches of an epoch by its number, which starts at 1.
            held: Measures weights: returns the objective of each held-back sample.
            done: Called with the state after the start is measured and after each epoch.

        Returns:
            The state that was given, after the last epoch.
        """
        if not state.curve:
            state.before = state.after = held(state.weights)
            state.curve.append(Epoch(0, math.nan, _average(state.before)))
            done(state)
        for number in range(len(state.curve), self.epochs + 1):
            if self.progress(state) >= 1:
                break
            losses = [self._step(state, batch) for batch in epoch(number)]
            started = time.perf_counter()
            values = held(state.weights)
            if not len(values) or _average(values) < _average(state.after):
                state.after = values
                state.best = {name: weight.clone() for name, weight in state.weights.items()}
            state.curve.append(Epoch(number, math.fsum(losses) / max(1, len(losses)), _average(values)))
            state.seconds += time.perf_counter() - started
            done(state)
        return state

    def _step(self, state: TrainingState, batch: Any) -> float:
        """Takes one step of Adam and returns the mean loss. Nothing moves where the gradient is not finite."""
        started = time.perf_counter()
        weights = {name: weight.detach().requires_grad_() for name, weight in state.weights.items()}
        loss = self.objective(weights, batch).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        state.step += 1
        if all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in gradients):
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    self._move(state, name, gradient)
        state.seconds += time.perf_counter() - started
        return float(loss.detach())

    def _move(self, state: TrainingState, name: str, gradient: Tensor) -> None:
        first, second = state.first[name], state.second[name]
        mask = self.masks.get(name)
        gradient = gradient if mask is None else gradient * mask
        first.lerp_(gradient, 1 - FIRST)
        second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
        spread = (second / (1 - SECOND**state.step)).sqrt_().add_(SMALL)
        size = self._rate(state) * state.scales[name] / (1 - FIRST**state.step)
        state.weights[name].addcdiv_(first, spread, value=-size)

    def _rate(self, state: TrainingState) -> float:
        progress = min(1.0, self.progress(state))
        warm = min(1.0, state.step / max(1.0, WARM_UP * self.epochs * self.steps))
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * progress))

    def progress(self, state: TrainingState) -> float:
        """The share of the run that is over, by steps or by the clock, whichever is further."""
        by_step = state.step / max(1, self.epochs * self.steps)
        return by_step if self.limit is None else max(by_step, state.seconds / self.limit)


def _find_step_size(weight: Tensor, mask: Tensor | None) -> float:
    """Computes `rms · √(64 / K)`. The root of a matrix's size stands for its K: which axis it is, is not known here."""
    kept = weight if mask is None else weight[mask.bool()]
    rms = float(kept.square().mean().sqrt()) if kept.numel() else 0.0
    if weight.ndim < MATRIX:
        return rms or 1.0
    width = math.sqrt(weight.numel()) if weight.ndim == MATRIX else weight.numel() / len(weight)
    return (rms or 1.0) * math.sqrt(WIDTH / max(1.0, width))


def _average(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else math.nan


def _make_plain(value: Any) -> Any:
    """Converts dataclasses to dictionaries, so that the file holds nothing but tensors and numbers."""
    if is_dataclass(value):
        return {entry.name: _make_plain(getattr(value, entry.name)) for entry in fields(value)}
    return [_make_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
