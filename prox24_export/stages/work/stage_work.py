"""What the walk over the stages asks for, and how this process does it by itself."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.moments import Observation
from prox24_export.passes.calibrate.schedule import Stage
from prox24_export.passes.calibrate.streams import Streams
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.lazy_tensors import LazyTensors
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.sparsify import SolvedLayer, Sparsify


class StageWork(Protocol):
    """Observes the stages of a run in their order, and solves their layers."""

    @property
    def executions(self) -> int:
        """Number of node executions so far, both streams together."""

    def observe(self, stage: Stage, weights: Mapping[str, Array], tick: Callable[[], None]) -> dict[str, Observation]:
        """Observes a stage, as `Calibrate.call` does; by name of the layer."""

    def pass_by(self, stage: Stage, weights: Mapping[str, Array], tick: Callable[[], None]) -> None:
        """Leaves behind a stage of which nothing has to be observed."""

    def solve(self, layers: Mapping[str, Linear], seen: dict[str, Observation]) -> Iterator[SolvedLayer]:
        """Solves layers, as `Sparsify.call` does, given by name. `seen` is emptied."""


@dataclass
class OwnWork:
    """The work of this process.

    Attributes:
        streams: The two activation streams.
        calibrate: How a stage is observed.
        sparsify: How layers are solved.
        read_weight: Reads the dense weight of a layer to where it is solved.
    """

    streams: Streams
    calibrate: Calibrate
    sparsify: Sparsify
    read_weight: Callable[[Linear], Tensor]

    @property
    def executions(self) -> int:
        """See `StageWork.executions`."""
        return self.streams.executions

    def observe(self, stage: Stage, weights: Mapping[str, Array], tick: Callable[[], None]) -> dict[str, Observation]:
        """See `StageWork.observe`."""
        return self.calibrate.call(streams=self.streams, stage=stage, weights=weights, tick=tick).observations

    def pass_by(self, stage: Stage, weights: Mapping[str, Array], tick: Callable[[], None]) -> None:
        """Runs the stage, so that later ones read what they would have read, bit by bit."""
        deque(self.streams.advance(stage, weights, tick), maxlen=0)

    def solve(self, layers: Mapping[str, Linear], seen: dict[str, Observation]) -> Iterator[SolvedLayer]:
        """See `StageWork.solve`."""
        dense = LazyTensors(lambda name: self.read_weight(layers[name]), tuple(layers))
        roundings = {name: rounding for name, linear in layers.items() if (rounding := linear.rounding) is not None}
        return self.sparsify.call(weights=dense, observations=seen, roundings=roundings)
