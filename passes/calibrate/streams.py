"""The two activation streams of a calibration, carried from stage to stage."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from prox24_export.passes.calibrate.frontier import Frontier, Spill
from prox24_export.passes.calibrate.moments import Moments
from prox24_export.passes.calibrate.schedule import Stage
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.lazy_mapping import LazyMapping
from prox24_export.passes.graph.on_device import move_to
from prox24_export.passes.graph.protocol import StageCompiler

ValuePair = tuple[dict[str, Array], dict[str, Array]]


@dataclass(frozen=True)
class Batch:
    """The inputs of one call of the model.

    Attributes:
        part: `fit` where masks and weights are fitted to the batch, `choice` where settings are chosen on it.
        feeds: An array for each input, by its name.
    """

    part: str
    feeds: Mapping[str, Array]


@dataclass
class Streams:
    """The dense and the pruned stream, which stand behind the stages that have run so far.

    Attributes:
        graph: The dense model, or what compiles its stages for a device.
        batches: Calibration data; each batch is carried through all stages.
        spill: Where values go that the streams carry from stage to stage and that do not fit in memory; None keeps all
            of them there.
        device: Where the feeds go, and so everything that is computed of them; None leaves them as they are.
        frontier: The values that they carry now.
        pending: Moments of layers that have been observed but not yet solved, by name of the layer and by part.
        executions: Number of node executions so far, both streams together.
    """

    graph: StageCompiler
    batches: Sequence[Batch]
    spill: Spill | None = None
    device: torch.device | None = None
    frontier: Frontier = field(init=False)
    pending: dict[str, dict[str, Moments]] = field(init=False, default_factory=dict)
    executions: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Starts both streams with the feeds, and lets them share the arrays."""
        self.frontier = Frontier(self._read_feeds, self.spill, self.device)

    def advance(
        self,
        stage: Stage,
        weights: Mapping[str, Array],
        tick: Callable[[], None] = lambda: None,
        *,
        places: Iterable[int] | None = None,
        runners: "RunnerPair | None" = None,
    ) -> Iterator[tuple[int, ValuePair]]:
        """Runs one stage in both streams, batch by batch, and leaves both behind it.

        Args:
            stage: The stage that comes next in the schedule.
            weights: The weights solved so far, in their stored shape and dtype, by name.
            tick: Called once for each batch.
            places: The batches to run, by their place; None runs all of them.
            runners: What runs the stage, dense and with `weights`, where somebody has it.

        Yields:
            The number of each batch, and what the dense and the pruned stream hold then. It should be forgotten before
            the next one is asked for, because it takes memory.
        """
        dense, pruned = make_runners(self.graph, stage, weights) if runners is None else runners
        for index in range(len(self.batches)) if places is None else places:
            carried = self.frontier.take(index)
            same = all(carried[0][name] is carried[1][name] for name in carried[1])
            untouched = same and not weights  # nothing is pruned yet: one run serves both streams
            x_dense = dense.run(carried[0])
            pair = x_dense, (x_dense if untouched else pruned.run(carried[1]))
            self.executions += len(stage.nodes) * (1 if untouched else 2)
            yield index, pair
            kept = ({name: value for name, value in stream.items() if name in stage.kept} for stream in pair)
            self.frontier.put(index, *kept)
            del carried, pair, x_dense
            tick()

    def _read_feeds(self, batch: int) -> Mapping[str, Array]:
        feeds = self.batches[batch].feeds
        return feeds if self.device is None else LazyMapping(lambda name: move_to(feeds[name], self.device), feeds)

    @property
    def one_pass(self) -> int:
        """Number of node executions in one dense pass over the data."""
        return len(self.graph.nodes) * len(self.batches)


class StageRunner:
    """Runs a stage. It is compiled at its first batch, because only then the types of what it reads are known."""

    def __init__(self, graph: StageCompiler, stage: Stage, weights: Mapping[str, Array]) -> None:
        """Runs nothing yet. `weights` replace stored ones by name."""
        self.graph, self._stage, self._weights = graph, stage, weights
        self._call: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None

    def run(self, values: dict[str, Array]) -> dict[str, Array]:
        """Runs the stage on `values`, and returns them together with what it computes from them."""
        if not self._stage.nodes:
            return values
        if self._call is None:
            self._call = self.graph.compile(self._stage.nodes, values, self._stage.fetches, self._weights)
        return values | self._call(values)


RunnerPair = tuple[StageRunner, StageRunner]  # of the dense and of the pruned stream


def make_runners(graph: StageCompiler, stage: Stage, weights: Mapping[str, Array]) -> RunnerPair:
    """Makes what runs a stage in the dense and in the pruned stream."""
    return StageRunner(graph, stage, {}), StageRunner(graph, stage, weights)
