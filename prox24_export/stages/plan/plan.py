"""Peak memory and time of a run, stated before it: one batch is carried through the stages, and costs are added up."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prox24_export.data.batches import make_batches
from prox24_export.data.samples import Parts
from prox24_export.facts.free_memory import find_free_host_memory
from prox24_export.facts.machine import measure_anonymous_mb, return_free_memory
from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT
from prox24_export.passes.calibrate.schedule import Stage, schedule
from prox24_export.passes.calibrate.shards import cut_shards
from prox24_export.passes.calibrate.streams import StageRunner
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.activations import Patches
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.permute.search import MOST_ROWS
from prox24_export.progress import Progress
from prox24_export.results.plan import Plan, Resumed, StagePlan
from prox24_export.settings import Settings
from prox24_export.solver.costs import OPEN, STEPS, count_inverses, is_solved_in_float64
from prox24_export.solver.pattern import GROUP
from prox24_export.stages.memory import MB, estimate_stage_mb, find_spill, group_by_input
from prox24_export.stages.norms import find_widest
from prox24_export.stages.permute import SAMPLES, SOLVED_BYTES, WIDEST_SOLVED
from prox24_export.stages.plan.gpu_rates import UPLOAD, GpuPlan
from prox24_export.stages.plan.rates import Rates, time_action
from prox24_export.stages.work.workers import find_longest_share, find_solving_share

STEP = 1e-4  # seconds that an iteration takes of a layer of no size
COPIED, DIGESTED = 0.5e9, 2e9  # bytes a second of a file's copy and of its SHA-256, as measured on a virtual disk
SWEEPS, PAIR_ROWS = 4, 2e7  # of the search for an order of channels, and rows of two groups that it cuts in a second
KERNELS_MB = 50.0  # that compiled kernels and their compiler take once they are loaded
MODEL_COPIES = 4.5  # of an ONNX model in memory at the end: both sessions, the written file, and what opening it takes


@dataclass(frozen=True)
class Costs:
    """Seconds and memory of what a stage does beside running the graph.

    Attributes:
        rates: What this machine computes in a second.
        settings: The options of the run.
        parts: Number of parts that the data are divided into: fit, and choice where there is one.
        on_gpu: Whether the model is run on a GPU, where nothing is timed.
    """

    rates: Rates
    settings: Settings
    parts: int
    on_gpu: bool = False

    @property
    def aims(self) -> bool:
        """Whether there is a cross Gram matrix, a target and an iteration."""
        return self.settings.method in AIMS_AT_DENSE_OUTPUT

    def seconds(self, widths: Sequence[int], linears: Sequence[Linear], tokens: float) -> float:
        """Estimates the seconds that moments of `tokens` rows, factors and every layer's solution take."""
        rates, products = self.rates, 2 if self.aims else 1
        total = sum(products * 2 * tokens * k * k / rates.single for k in widths)
        for linear in linears:
            product = 2.0 * linear.n * linear.k**2
            total += product / rates.double + product / rates.single  # the loss, and what it is relative to
            if self.aims:
                total += self._iteration_seconds(linear)
                total += (2 + 5 * (self.parts - 1)) * product / rates.double  # the target, and the choice of the blend
        if self.aims:
            total += sum(self.parts * rates.factor_seconds(k) for k in widths)
            for group in group_by_input(linears):
                heights, width = [linear.n for linear in group], group[0].k
                in_float64 = is_solved_in_float64(max(heights), width)
                # An inverse has three times the operations of a factorisation.
                one = 3 * rates.factor_seconds(width) if in_float64 else rates.inverse_seconds(width)
                total += count_inverses(heights, width, self.settings.effort) * one
        return total

    def _iteration_seconds(self, linear: Linear) -> float:
        """Estimates what a layer takes of the mask solver and of the refinement, beside the inverses."""
        rates, steps = self.rates, STEPS[self.settings.effort]
        product = 2.0 * linear.n * linear.k**2
        masks, first, others = rates.rounded, rates.single, rates.rounded
        if self.settings.effort == "thorough":
            others = rates.single
        if is_solved_in_float64(linear.n, linear.k):
            masks = first = others = rates.double
        products = (steps.masks - 1) / masks + 1 / first + OPEN * steps.refinement / others
        passes = steps.masks * linear.parameters / rates.entries
        return product * products + passes + STEP * (steps.masks + steps.refinement)

    def forward(self, linears: Sequence[Linear], tokens: float, measured: float) -> float:
        """The seconds of a stage's nodes with one batch: as measured, or on a GPU those of the products alone."""
        return (
            2 * tokens * sum(linear.parameters for linear in linears) / self.rates.single if self.on_gpu else measured
        )

    def upload(self, linears: Sequence[Linear]) -> float:
        """The seconds in which a stage's weights come to the GPU; 0 on the CPU."""
        return 4.0 * sum(linear.parameters for linear in linears) / UPLOAD if self.on_gpu else 0.0

    def search_mb(self, linears: Sequence[Linear]) -> float:
        """Estimates the MB that the search for an order of channels holds: a cost for each entry, Gram matrices."""
        grams = 8.0 * sum(linear.k**2 for linear in linears if linear.k <= WIDEST_SOLVED)
        return (4.0 * sum(linear.parameters for linear in linears) + min(grams, SOLVED_BYTES)) / MB

    def search_seconds(self, linears: Sequence[Linear], tokens: float) -> float:
        """Estimates the seconds of that search: Gram matrices of `tokens` rows, their inverses, and the cuts."""
        total = 0.0
        for linear in linears:
            view = linear.uses[0].view
            places = math.prod(view.kernel) if isinstance(view, Patches) else 1
            groups, rows = linear.k / places / GROUP, min(linear.n * places, MOST_ROWS)
            total += 2 * tokens * linear.k**2 / self.rates.single + self.rates.factor_seconds(linear.k)
            total += SWEEPS * groups**2 / 2 * rows / PAIR_ROWS
        return total


@dataclass
class _ModelWalk:
    """What running one batch through the dense model showed."""

    base_mb: float
    spill_mb: float  # the most that activations take between stages
    workers: int
    shards: Sequence[range]  # of the batches
    is_cached: bool = True  # the model's files fit into the system's cache: only the first read is slow
    loading: float = 0.0  # seconds to read every weight once
    running: float = 0.0  # seconds of one batch
    tokens: float = 0.0  # the most rows that one batch becomes before a layer
    stages: list[StagePlan] = field(default_factory=list)

    def checks_and_accuracy(self, opening: float, samples: int, reported: int) -> float:
        """Estimates the seconds of what is done before and after the layers.

        The model is opened twice; run twice on few samples before any work, read, written, verified, and run once for
        the estimate; the accuracy is measured of the dense and of the sparse model.

        Args:
            opening: Seconds that it takes to open the model.
            samples: Samples of the batch that was run.
            reported: Samples that the accuracy is measured on.
        """
        checks = 2 * opening + 8 * self.loading + 3 * self.running / samples
        return checks + 2 * reported / samples * (self.running + self.loading)

    @property
    def observing_share(self) -> float:
        """Share of the batches that the worker with the most of them has."""
        return find_longest_share([len(shard) for shard in self.shards], self.workers)


def plan_run(
    graph: TracedGraph,
    linears: Sequence[Linear],
    parts: Parts,
    *,
    size: int,
    settings: Settings,
    opening: float,
    refines: bool,
    permutes: bool,
    resumed: Resumed | None,
    gpu: GpuPlan | None = None,
    progress: Progress,
    workers: int = 0,
) -> Plan:
    """Carries one batch through the dense model, stage by stage, and adds up what the run will take.

    Args:
        graph: The dense model.
        linears: Layers to be pruned.
        parts: The samples of the run.
        size: Samples in one call.
        settings: The options of the run.
        opening: Seconds that it took to open the model.
        refines: Whether layers will be refined together afterwards.
        permutes: Whether an order of channels will be searched before.
        resumed: What an interrupted run has done; None where it starts anew.
        gpu: The GPU that the run will be on; None for the CPU.
        progress: Where to show progress.
        workers: As `Plan.workers`.
    """
    fit = make_batches(parts.fit, graph.inputs, "fit", size)
    costs = Costs(Rates.measure() if gpu is None else gpu.rates, settings, 2 if parts.choice else 1, gpu is not None)
    samples = max(1, min(size, len(parts.fit)))  # of the batch that is run here
    repeats = (len(parts.fit) + len(parts.choice)) / samples
    return_free_memory()
    is_cached = 4.0 * graph.parameters < find_free_host_memory() / 2
    stages = schedule(graph, linears) if fit else []
    spill_mb = find_spill(stages, settings, costs.parts, graph.path.parent).limit / MB
    batches = [*fit, *make_batches(parts.choice, graph.inputs, "choice", size)]
    held = _count_session_bytes(graph) / MB
    loaded = measure_anonymous_mb() + (KERNELS_MB if stages else 0.0)
    walk = _ModelWalk(loaded + held, spill_mb, max(1, workers), cut_shards(batches), is_cached)
    values = dict[str, Any](fit[0].feeds if fit else {})
    done = resumed.layers if resumed is not None else frozenset[str]()
    with progress.stage("plan", len(stages)) as tick:
        for stage in stages:
            values = _walk_stage(graph, stage, values, repeats, costs=costs, walk=walk, done=done)
            tick()
    files = 4.0 * graph.parameters * (1 / COPIED + 2 / DIGESTED)  # the model copied, both digested
    seconds = files + walk.checks_and_accuracy(opening, samples, len(parts.report))
    seconds += sum(stage.seconds for stage in walk.stages)
    memory = max([loaded + MODEL_COPIES * held, *(stage.memory_mb for stage in walk.stages)])
    if permutes and not (resumed is not None and resumed.permuted):
        observed = min(SAMPLES, len(parts.fit)) / samples  # batches
        seconds += 3 * opening + observed * walk.running + walk.loading + files
        seconds += costs.search_seconds(linears, observed * walk.tokens)
        memory = max(memory, walk.base_mb + costs.search_mb(linears))
    assumed = () if gpu is None else gpu.list_assumptions()
    return Plan(memory, seconds, tuple(walk.stages), refines, resumed=resumed, assumptions=assumed, workers=workers)


def _walk_stage(
    graph: TracedGraph,
    stage: Stage,
    values: dict[str, Any],
    repeats: float,
    *,
    costs: Costs,
    walk: _ModelWalk,
    done: frozenset[str],
) -> dict[str, Any]:
    """Runs one stage twice, the first time with its weights to load; returns what later stages read."""
    return_free_memory()
    runner, before = StageRunner(graph, stage, {}), measure_anonymous_mb()
    first, _ = time_action(lambda: runner.run(values))
    again, results = time_action(lambda: runner.run(values))
    return_free_memory()
    loaded = max(0.0, measure_anonymous_mb() - before - _mb(results[name] for name in stage.fetches))
    if walk.is_cached:
        first = min(first, time_action(lambda: StageRunner(graph, stage, {}).run(values))[0])  # from memory now
    loading = max(0.0, first - again)
    kept = {name: value for name, value in results.items() if name in stage.kept}
    inputs = {(use.activation, use.view, use.expert): linear for linear, use in stage.observed}
    tokens = {key: _tokens(linear, results[key[0]]) for key, linear in inputs.items()}
    walk.tokens = max(walk.tokens, *tokens.values(), 0.0)
    again = costs.forward(stage.linears, max(tokens.values(), default=0.0), again)
    walk.loading += (loading := loading + costs.upload(stage.linears))
    walk.running += again
    widths = [linear.k for linear in inputs.values()]
    held = 2 * repeats * _mb(kept.values())  # of which as much goes to disk as does not fit
    streams = min(held, walk.spill_mb) + 2 * _mb(results[name] for name in stage.fetches)
    weight = 4 * max((linear.parameters for linear, _ in stage.observed), default=0) / MB  # of the layer being solved
    passes = 2 if walk.stages else 1  # nothing is pruned before the first stage: one stream serves for both
    memory = walk.base_mb + streams + passes * loaded + weight
    seconds = passes * (loading + walk.observing_share * repeats * again)
    if not all(linear.name in done for linear, _ in stage.observed):
        memory += estimate_stage_mb(stage, costs.settings, costs.parts)
        linears = [linear for linear in stage.linears if linear.name not in done]
        widest = find_widest(costs.settings.method) or math.inf  # columns: a baseline reads no wider Gram matrix
        widths, linears = [k for k in widths if k <= widest], [linear for linear in linears if linear.k <= widest]
        solving = costs.seconds(widths, linears, 0.0)
        observing = costs.seconds(widths, linears, repeats * max(tokens.values(), default=0)) - solving
        seconds += walk.observing_share * observing + find_solving_share(linears, walk.workers) * solving
    walk.stages.append(StagePlan(tuple(linear.name for linear in stage.linears), memory, seconds))
    return kept


def _count_session_bytes(graph: TracedGraph) -> int:
    """Bytes of an ONNX model that a session for the whole of it holds; 0 where its weights stay in their files."""
    if not isinstance(graph, OnnxGraph) or graph.executable.mapped:
        return 0
    return int(graph.proto.ByteSize())


def _tokens(linear: Linear, activation: Any) -> float:
    """Rows of the matrix that an activation becomes, as far as its size tells."""
    entries = activation.numel() if isinstance(activation, torch.Tensor) else activation.size
    return float(entries / linear.k)


def _mb(values: Iterable[Any]) -> float:
    return sum(float(getattr(value, "nbytes", 0)) for value in values) / MB
