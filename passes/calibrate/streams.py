"""The two activation streams of a calibration, carried from stage to stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prox24_export.passes.calibrate.frontier import Frontier, InMemory, OnDisk
from prox24_export.passes.calibrate.moments import Moments
from prox24_export.passes.calibrate.schedule import Stage
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import TracedGraph


@dataclass(frozen=True)
class Batch:
    """Feeds of one call of the model.

    Attributes:
        part: `fit` or `choice`; see `prox24_export.data.samples.split`.
        feeds: Array by input name.
    """

    part: str
    feeds: Mapping[str, Array]


@dataclass
class Streams:
    """Where the dense and the pruned stream are: behind the stages that have run so far.

    Attributes:
        graph: The dense model.
        batches: Calibration data; each batch is carried through all stages.
        offload: Folder for what the streams carry from stage to stage; None keeps it in memory.
        frontier: What they carry now.
        pending: By part: moments of layers that have been observed, and not yet solved, by name.
        executions: Node executions so far, both streams together.
    """

    graph: TracedGraph
    batches: Sequence[Batch]
    offload: Path | None = None
    frontier: Frontier = field(init=False)
    pending: dict[str, dict[str, Moments]] = field(init=False, default_factory=dict)
    executions: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Both streams start as the feeds, sharing the arrays."""
        feeds = [batch.feeds for batch in self.batches]
        self.frontier = InMemory(feeds) if self.offload is None else OnDisk(feeds, self.offload)

    @property
    def one_pass(self) -> int:
        """Node executions of one dense pass over the data."""
        return len(self.graph.nodes) * len(self.batches)


class StageRunner:
    """Compiles a stage at its first batch, because only then the types of what it reads are known."""

    def __init__(self, graph: TracedGraph, stage: Stage, weights: Mapping[str, Array]) -> None:
        """Runs nothing yet; `weights` replaces stored ones by name."""
        self.graph, self._stage, self._weights = graph, stage, weights
        self._call: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None

    def run(self, values: dict[str, Array]) -> dict[str, Array]:
        """`values` and what the stage computes from them."""
        if not self._stage.nodes:
            return values
        if self._call is None:
            self._call = self.graph.compile(self._stage.nodes, values, self._stage.fetches, self._weights)
        return values | self._call(values)
