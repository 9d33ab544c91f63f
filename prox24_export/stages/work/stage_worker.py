"""A worker of a run: it opens the model by itself, observes stages on runs of batches, and solves rows of layers."""

import hashlib
import platform
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prox24_export.errors import InputError
from prox24_export.models.find_frontend import find_frontend
from prox24_export.models.frontend import Frontend
from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.frontier import Spill
from prox24_export.passes.calibrate.moments import Moments
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.shards import cut_shards
from prox24_export.passes.calibrate.streams import Batch, RunnerPair, Streams, make_runners
from prox24_export.passes.calibrate.sums import ObservedView, StageSums
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.lazy_mapping import LazyMapping
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.sparsify import Sparsify
from prox24_export.solver.solution import LayerSolution
from prox24_export.stages.work.piece_solver import PieceSolver, SharedInput

Fetch = Callable[[Any], Any]  # what `Workers.put` returned → the value
PackedMoments = tuple[Array, Array | None, Array, int]  # gram, cross where it is another, norms, tokens
PackedSums = tuple[dict[ObservedView, dict[str, PackedMoments]], dict[str, dict[str, Array]]]

PackedSolution = tuple[Array, Array, dict[str, Any]]  # weight, mask, and the other fields of the solution by name


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker knows of a run before its first call. A handle is what `Workers.put` returned.

    Attributes:
        model: The path of the model, which is the same on every machine.
        example: The first batch, which a directory is traced with; None invents one.
        include: Globs of the layers that count.
        exclude: Globs of those that do not.
        digest: What `digest_graph` gives for the same model.
        batches: Part and feeds of each batch, of which every array is a handle.
        calibrate: How a stage is observed.
        sparsify: How a layer is solved.
        folder: Where the activations go that do not fit in memory, if it is there; else the system's folder for that.
        room: The most bytes of activations that stay in memory.
        threads: The threads of torch: as many as where the run is, since the bits of its sums depend on their number.
    """

    model: str
    example: Any
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    digest: str
    batches: Sequence[tuple[str, Mapping[str, Any]]]
    calibrate: Calibrate
    sparsify: Sparsify
    folder: Path
    room: float
    threads: int


@dataclass
class StageWorker:
    """A worker.

    Attributes:
        setup: What it knows of the run.
        fetch: Reads the value that a handle stands for.
    """

    setup: WorkerSetup
    fetch: Fetch
    _streams: dict[int, Streams] = field(init=False, default_factory=dict)
    _places: dict[int, int] = field(init=False, default_factory=dict)  # the stage that each run of batches stands at
    _runners: tuple[int, RunnerPair] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Opens the model.

        Raises:
            InputError: It cannot be opened here, or is another one than that of the run.
        """
        setup = self.setup
        torch.set_num_threads(setup.threads)
        frontend = find_frontend(setup.model, setup.example)
        self.graph = frontend.open()
        linears = FindLinears(setup.include, setup.exclude).call(graph=self.graph).linears
        if digest_graph(frontend, self.graph, linears) != setup.digest:
            raise InputError(
                f"the model that a worker on {platform.node()} found at {setup.model} is another one than here. "
                "Expected the same files at the same path on every machine."
            )
        self.stages = schedule(self.graph, linears)
        self.linears = {linear.name: linear for linear in linears}
        self.batches = [Batch(part, self._read_lazily(feeds)) for part, feeds in setup.batches]
        self.shards = cut_shards(self.batches)
        parent = setup.folder if setup.folder.is_dir() else None
        self._folder = tempfile.mkdtemp(prefix="worker.", dir=parent)
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def observe(self, shard: int, stage: int, weights: Mapping[str, Any]) -> tuple[PackedSums, int]:
        """Sums up what a run of batches shows of a stage, after all stages before it that this worker has not run.

        Args:
            shard: Which run of batches.
            stage: Which stage.
            weights: Handles of the weights solved so far, by name, in their stored shape and dtype.

        Returns:
            The sums, and how many nodes were executed for them.

        Raises:
            InputError: As `Calibrate.call`.
        """
        if self._places.get(shard, 0) > stage:  # it was asked for this before; the answer was lost
            del self._streams[shard], self._places[shard]
        streams = self._streams.get(shard) or self._open_streams(shard)
        before, places = streams.executions, self.shards[shard]
        for place in range(self._places.get(shard, 0), stage):
            known = self._solved_before(place, weights)
            deque(streams.advance(self.stages[place], known, places=places), maxlen=0)
        known = self._solved_before(stage, weights)
        if self._runners is None or self._runners[0] != stage:
            self._runners = None
            self._runners = stage, make_runners(self.graph, self.stages[stage], known)
        pairs = streams.advance(self.stages[stage], known, places=places, runners=self._runners[1])
        sums = self.setup.calibrate.sum_up(streams, self.stages[stage], pairs)
        self._places[shard] = stage + 1
        return pack_sums(sums), streams.executions - before

    def choose_blends(self, shared: SharedInput, names: Sequence[str]) -> dict[str, float]:
        """See `PieceSolver.choose_blends`."""
        self._runners = None
        return self._solver.choose_blends(shared, names)

    def solve_rows(
        self, shared: SharedInput, pieces: Sequence[tuple[str, slice]], blends: Mapping[str, float]
    ) -> list[PackedSolution]:
        """See `PieceSolver.solve_rows`; the solutions are packed."""
        self._runners = None
        return [pack_solution(solution) for solution in self._solver.solve_rows(shared, pieces, blends)]

    def _open_streams(self, shard: int) -> Streams:
        room = self.setup.room * len(self.shards[shard]) / len(self.batches)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._streams[shard] = Streams(self.graph, self.batches, Spill(folder, room))
        return self._streams[shard]

    def _solved_before(self, stage: int, weights: Mapping[str, Any]) -> Mapping[str, Array]:
        """The weights that were solved when a stage was run: layers with later uses are solved later."""
        before = {linear.weight for earlier in self.stages[:stage] for linear in earlier.linears}
        return self._read_lazily({name: weights[name] for name in weights if name in before})

    def _read_lazily(self, handles: Mapping[str, Any]) -> Mapping[str, Array]:
        """Arrays by name, each fetched when it is asked for, as a copy that can be written to."""
        fetch = self.fetch
        return LazyMapping(lambda name: np.array(fetch(handles[name])), handles)

    @cached_property
    def _solver(self) -> PieceSolver:
        """Solves pieces; reads what it is handed into memory of its own, since that is added up in place."""
        fetch = self.fetch
        return PieceSolver(
            self.setup.sparsify,
            self.linears,
            self.graph.weight,
            lambda handle: unpack_moments(fetch(handle)),
            lambda handle: copy_tensor(fetch(handle)),
        )


def digest_graph(frontend: Frontend, graph: TracedGraph, linears: Sequence[Linear]) -> str:
    """Digests what two openings of the same model have in common: nodes, layers, and the sizes of its files."""
    sizes = [(name, file.stat().st_size) for name, file in sorted(frontend.files(graph).items())]
    layers = [(linear.name, linear.n, linear.k, linear.weight) for linear in linears]
    return hashlib.sha256(repr((list(graph.nodes), layers, sizes)).encode(errors="surrogateescape")).hexdigest()


def copy_tensor(array: Array) -> Tensor:
    """Copies an array into a tensor of its own, in memory that torch has aligned."""
    tensor = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype)
    tensor.numpy()[...] = array
    return tensor


def pack_moments(moments: Moments) -> PackedMoments:
    """Packs moments as arrays, which are sent without a copy."""
    cross = None if moments.cross is moments.gram else moments.cross.numpy()
    return moments.gram.numpy(), cross, moments.dense.numpy(), moments.tokens


def unpack_moments(packed: PackedMoments) -> Moments:
    """Unpacks moments; it is the inverse of `pack_moments`, and copies what it is given."""
    gram = copy_tensor(packed[0])
    cross = gram if packed[1] is None else copy_tensor(packed[1])
    return Moments(gram, cross, copy_tensor(packed[2]), packed[3])


def pack_sums(sums: StageSums) -> PackedSums:
    """Packs the sums over a run of batches as arrays."""
    moments = {view: {part: pack_moments(one) for part, one in parts.items()} for view, parts in sums.moments.items()}
    return moments, {name: {part: one.numpy() for part, one in parts.items()} for name, parts in sums.residuals.items()}


def unpack_sums(packed: PackedSums) -> StageSums:
    """Unpacks sums; it is the inverse of `pack_sums`, and copies what it is given."""
    moments = {view: {part: unpack_moments(one) for part, one in parts.items()} for view, parts in packed[0].items()}
    residuals = {name: {part: copy_tensor(one) for part, one in parts.items()} for name, parts in packed[1].items()}
    return StageSums(moments, residuals)


def pack_solution(solution: LayerSolution) -> PackedSolution:
    """Packs the solution of a piece as arrays, and what is known beside them."""
    rest = {name: value for name, value in vars(solution).items() if name not in {"weight", "mask"}}
    return solution.weight.numpy(), solution.mask.numpy(), rest


def unpack_solution(packed: PackedSolution) -> LayerSolution:
    """Unpacks a solution; it is the inverse of `pack_solution`, and copies what it is given."""
    weight, mask, rest = packed
    return LayerSolution(copy_tensor(weight), copy_tensor(mask), **rest)
