"""The work of the stages, spread over workers: runs of batches are observed, and pieces of layers solved, side by side.

Which runs and pieces there are follows from the data and the layers, and their results are put together in order, so
that every bit is the one that this process would have come to by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prox24_export.models.frontend import Frontend
from prox24_export.passes.calibrate.calibrate import Calibrate, collect_observations
from prox24_export.passes.calibrate.moments import Moments, Observation
from prox24_export.passes.calibrate.schedule import Stage
from prox24_export.passes.calibrate.shards import cut_shards
from prox24_export.passes.calibrate.streams import Streams
from prox24_export.passes.calibrate.sums import StageSums
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.sparsify import SolvedLayer, Sparsify
from prox24_export.settings import Settings
from prox24_export.stages.work.piece_solver import SharedInput
from prox24_export.stages.work.spread_layers import SpreadLayers
from prox24_export.stages.work.stage_worker import WorkerSetup, digest_graph, pack_moments, unpack_solution, unpack_sums
from prox24_export.stages.work.workers import MachineWorkers, WorkerCall, make_calls


@dataclass(frozen=True)
class Team:
    """Workers, and the model that they open.

    Attributes:
        workers: The workers.
        frontend: Reads the model, at a path that every worker sees.
    """

    workers: MachineWorkers
    frontend: Frontend


def gather_team(workers: MachineWorkers, frontend: Frontend, graph: TracedGraph, scratch: Path) -> Team:
    """Gathers workers for a model.

    Args:
        workers: The workers.
        frontend: Reads models of its kind.
        graph: The model. One that is in no file, such as a module of the user's, is written to `scratch`.
        scratch: A folder that every worker sees.
    """
    if graph.path.exists():
        return Team(workers, frontend if graph.path == frontend.path else frontend.find_written(graph.path))
    folder = scratch / "for-workers"
    folder.mkdir(exist_ok=True)
    return Team(workers, frontend.find_written(frontend.write(graph, {}, folder)))


@dataclass
class SpreadWork:
    """The work of a run's stages by workers; see `StageWork`.

    Attributes:
        team: The workers and their model.
        graph: The same model, as this process has it.
        stages: The stages of the run.
        linears: The layers of the run.
        streams: The batches; they are not run here.
        calibrate: How a stage is observed.
        sparsify: How layers are solved.
        settings: The options of the run.
        executions: See `StageWork.executions`.
    """

    team: Team
    graph: TracedGraph
    stages: Sequence[Stage]
    linears: Sequence[Linear]
    streams: Streams
    calibrate: Calibrate
    sparsify: Sparsify
    settings: Settings
    executions: int = 0
    _weights: dict[str, Any] = field(init=False, default_factory=dict)  # handles of solved weights

    def observe(self, stage: Stage, weights: Mapping[str, Array], tick: Callable[[], None]) -> dict[str, Observation]:
        """See `StageWork.observe`."""
        workers, totals, shards = self.team.workers, StageSums(), cut_shards(self.streams.batches)
        for name in weights:
            if name not in self._weights:
                self._weights[name] = workers.put(np.asarray(weights[name]))
        place = next(place for place, one in enumerate(self.stages) if one is stage)
        calls = [
            WorkerCall("observe", (shard, place, dict(self._weights)), len(places))
            for shard, places in enumerate(shards)
        ]
        for places, (packed, executions) in zip(shards, make_calls(workers, self._setup, calls), strict=True):
            totals.add(unpack_sums(packed))
            del packed
            self.executions += executions
            for _ in places:
                tick()
        return collect_observations(self.streams.pending, stage, totals)

    def pass_by(self, stage: Stage, weights: Mapping[str, Array], tick: Callable[[], None]) -> None:  # noqa: ARG002 - as the protocol has it
        """Asks nothing: a worker runs the stages that it has left out before the next one that is observed."""
        for _ in self.streams.batches:
            tick()

    def solve(self, layers: Mapping[str, Linear], seen: dict[str, Observation]) -> Iterator[SolvedLayer]:
        """See `StageWork.solve`."""
        workers, hand_out = self.team.workers, self._hand_out
        return SpreadLayers(workers, self._setup, self.sparsify, hand_out, unpack_solution).solve(layers, seen)

    def _hand_out(self, observed: Mapping[str, Observation]) -> SharedInput:
        put, first = self.team.workers.put, next(iter(observed.values()))

        def put_moments(moments: Moments | None) -> Any:
            return None if moments is None else put(pack_moments(moments))

        residuals = {
            name: {part: put(product.numpy()) for part, product in one.residuals.items()}
            for name, one in observed.items()
        }
        return SharedInput(
            put_moments(first.fit), put_moments(first.choice), residuals, self.sparsify.choose_damping(first)
        )

    @cached_property
    def _setup(self) -> Any:
        """What stands for the setup of the workers, once it is stored for them."""
        put, frontend, spill = self.team.workers.put, self.team.frontend, self.streams.spill
        room = 0.0 if spill is None else spill.limit
        setup = WorkerSetup(
            model=str(frontend.path.resolve()),
            example=getattr(frontend, "example", None),
            include=self.settings.include,
            exclude=self.settings.exclude,
            digest=digest_graph(frontend, self.graph, self.linears),
            batches=[
                (batch.part, {name: put(np.asarray(array)) for name, array in batch.feeds.items()})
                for batch in self.streams.batches
            ],
            calibrate=self.calibrate,
            sparsify=self.sparsify,
            folder=(spill.folder if spill is not None else frontend.path.parent).resolve(),
            room=room / self.team.workers.on_one_machine,
            threads=torch.get_num_threads(),
        )
        return put(setup)
