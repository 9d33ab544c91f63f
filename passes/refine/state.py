"""How far a refinement is: everything that a later run needs to go on from where an earlier one stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Mode = Literal["model", "segments", "auto"]
Target = Literal["dense", "views"]
CPU = torch.device("cpu")
MOST_GPUS = 64  # of a machine


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve.

    Attributes:
        number: Number of the point. 0 is the start, before the first step.
        train: Mean objective over the epoch's batches; NaN for the start.
        held: Mean objective of the held-back samples after the epoch.
    """

    number: int
    train: float
    held: float


@dataclass
class TrainingState:
    """The state of a training between two steps. All weights and moments are float32, by name of the parameter.

    Attributes:
        weights: The weights as they are now.
        first: Adam's running mean of the gradients.
        second: Adam's running mean of the squared gradients.
        average: The running mean of the weights, which is what the held-back samples judge.
        best: The average after the epoch that was best on the held-back samples.
        before: Objective of each held-back sample at the start.
        after: Objective of each held-back sample with `best`.
        rate: Relative learning rate of a step, before it rises at the start and falls at the end.
        ceiling: The largest rate that may still be tried.
        planned: The number of steps after which the training ends.
        step: Number of steps done.
        fresh: Number of steps since the moments and the average began.
        taken_back: Number of epochs after which the weights went back to the best ones.
        limited: Whether the training ended because its time was over.
        judging: Seconds that it takes to judge weights on the held-back samples.
        curve: The start, and the epochs that were not taken back.
        losses: Objectives of the steps of the epoch that is being taken; empty between two epochs.
        finishing: Number of steps before those on all samples; None before these have begun.
    """

    weights: Weights
    first: Weights
    second: Weights
    average: Weights
    best: Weights
    before: Tensor
    after: Tensor
    rate: float
    ceiling: float
    planned: int
    step: int = 0
    fresh: int = 0
    taken_back: int = 0
    limited: bool = False
    judging: float = 0.0
    curve: list[Epoch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    finishing: int | None = None

    @property
    def is_between_epochs(self) -> bool:
        """Whether no epoch is begun, and the steps on all samples are not."""
        return not self.losses and self.finishing is None

    @staticmethod
    def start(weights: Mapping[str, Tensor], rate: float, ceiling: float, planned: int) -> "TrainingState":
        """The state before the first step, with float32 copies of the weights."""
        masters, average, best = (copy_weights(weights) for _ in range(3))
        first, second = ({name: torch.zeros_like(value) for name, value in masters.items()} for _ in range(2))
        nothing = torch.zeros(0)
        return TrainingState(masters, first, second, average, best, nothing, nothing, rate, ceiling, planned)

    def go_back(self) -> None:
        """Gives the weights and their average the best values seen, and forgets the moments."""
        for name, weight in self.best.items():
            self.weights[name].copy_(weight)
            self.average[name].copy_(weight)
            self.first[name].zero_()
            self.second[name].zero_()
        self.fresh = 0


@dataclass(frozen=True)
class Part:
    """A network or a segment that is done.

    Attributes:
        weights: Float32 weights by name of the parameter: the refined ones if they are kept, else those at the start.
        curve: The start, and every epoch that was not taken back.
        before: Objective of each held-back sample at the start.
        after: Objective of each held-back sample with the weights of the best epoch.
        kept: Whether the refined weights are kept.
        taken_back: Number of epochs that were taken back.
        limited: Whether its training ended because its time was over.
    """

    weights: Weights
    curve: tuple[Epoch, ...]
    before: Tensor
    after: Tensor
    kept: bool
    taken_back: int = 0
    limited: bool = False

    def after_moving(self, moved: "Part") -> "Part":
        """This part with the curve of the moving masks before its own, whose first point is the last one's best."""
        later = [replace(point, number=len(moved.curve) + place) for place, point in enumerate(self.curve[1:])]
        return replace(self, curve=(*moved.curve, *later), taken_back=self.taken_back + moved.taken_back)


@dataclass(frozen=True)
class Refined:
    """The result of refinement.

    Attributes:
        weights: Float32 weights by name of the parameter: all that were given, and all others that moved. Pruned
            entries are +0.0. Where nothing is kept these are exactly the weights at the start.
        kept: Whether the refined weights are kept.
        before: Mean objective of the held-back samples at the start; NaN without such samples.
        after: Mean objective of the held-back samples at the end, before a whole network has learnt from them, too.
        parts: The whole network, or its segments in order, each with its curve and its decision.
        mode: Whether the network was tuned at once or by segments.
        seconds: Wall time in seconds.
        target: The target that was taken.
    """

    weights: Mapping[str, Tensor]
    kept: bool
    before: float
    after: float
    parts: Sequence[Part]
    mode: Mode
    seconds: float = 0.0
    target: Target = "dense"


@dataclass
class RefineProgress:
    """How far a refinement is between two steps.

    Attributes:
        parts: Segments that are done; a whole network counts as one part.
        moved: What came of letting the masks move; None before its end, and where they are fixed.
        state: State of the part in work, or of the moving masks; None before its start.
        seconds: Time that all of it has taken, in seconds.
        mode: Whether the network is tuned at once or by segments, which depends on the memory that was free; None where
            that is not decided yet.
        halvings: How often batches were halved, because the device had no room for more; see `RefineModel`.
    """

    parts: list[Part] = field(default_factory=list)
    moved: Part | None = None
    state: TrainingState | None = None
    seconds: float = 0.0
    mode: Mode | None = None
    halvings: int = 0

    def with_halvings(self, halvings: int) -> "RefineProgress":
        """This progress where batches are halved so often; else a new one: steps over others cannot be gone on with."""
        return self if halvings == self.halvings else RefineProgress(seconds=self.seconds, halvings=halvings)

    def save(self, path: Path) -> None:
        """Writes the progress to a file.

        Raises:
            OSError: The file cannot be written.
        """
        torch.save(_make_plain(self), path)

    @staticmethod
    def load(path: Path, device: torch.device = CPU) -> "RefineProgress":
        """Reads a file that `save` wrote.

        Args:
            path: The file.
            device: Where tensors go that were on a GPU, which may have had another number.

        Raises:
            OSError: The file cannot be read.
        """
        stored = torch.load(path, map_location={f"cuda:{n}": str(device) for n in range(MOST_GPUS)}, weights_only=True)
        parts, state = [_read_part(part) for part in stored["parts"]], stored["state"]
        moved = None if stored["moved"] is None else _read_part(stored["moved"])
        if state is not None:
            state = TrainingState(**state | {"curve": [Epoch(**epoch) for epoch in state["curve"]]})
        return RefineProgress(parts, moved, state, stored["seconds"], stored["mode"], stored["halvings"])


def _read_part(stored: Mapping[str, Any]) -> Part:
    return Part(**{**stored, "curve": tuple(Epoch(**epoch) for epoch in stored["curve"])})


def copy_weights(weights: Mapping[str, Tensor]) -> Weights:
    """Copies weights as float32."""
    return {name: weight.detach().float().clone() for name, weight in weights.items()}


def _make_plain(value: Any) -> Any:
    """Converts dataclasses to dictionaries, so that the file holds nothing but tensors and numbers."""
    if is_dataclass(value):
        return {entry.name: _make_plain(getattr(value, entry.name)) for entry in fields(value)}
    return [_make_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
