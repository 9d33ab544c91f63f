"""Peak memory and time of a run, stated before it: one batch is carried through the stages, and costs are added up."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from prox24_export.data.batches import make_batches
from prox24_export.data.samples import Parts
from prox24_export.facts.machine import measure_resident_mb, return_free_memory
from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT, Effort
from prox24_export.passes.calibrate.schedule import Stage, schedule
from prox24_export.passes.calibrate.streams import StageRunner
from prox24_export.passes.graph.activations import Patches
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.permute.search import MOST_ROWS
from prox24_export.passes.refine.memory import find_available_memory
from prox24_export.progress import Progress
from prox24_export.results.plan import Plan, Resumed, StagePlan
from prox24_export.settings import Settings
from prox24_export.solver.costs import count_inverses
from prox24_export.solver.pattern import GROUP
from prox24_export.solver.products import multiply
from prox24_export.stages.memory import MB, estimate_stage_mb, find_spill, group_by_input
from prox24_export.stages.norms import find_widest
from prox24_export.stages.permute import SAMPLES, SOLVED_BYTES, WIDEST_SOLVED

TRIAL = 1024  # size of the matrices that the machine's rates are measured on
ITERATIONS: Mapping[Effort, int] = {"fast": 14, "default": 35, "thorough": 130}  # mask solver and refinement together
PASS = 9e-9  # seconds of one core for the prox of an entry
COPIED, DIGESTED = 0.5e9, 2e9  # bytes a second of a file's copy and of its SHA-256, as measured on a virtual disk
SWEEPS, PAIR_ROWS = 4, 2e7  # of the search for an order of channels, and rows of two groups that it cuts in a second
INVERSE = 2.0  # floating-point operations of an inverse, in K³, at the rate of a product
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rates:
    """How much this machine computes in a second.

    Attributes:
        single: Floating-point operations of a float32 matrix product.
        double: Floating-point operations of a float64 matrix product.
        rounded: Floating-point operations of a product of the mask solver.
        cholesky: `K³` of a float64 Cholesky factorisation.
    """

    single: float
    double: float
    rounded: float
    cholesky: float

    @classmethod
    def measure(cls) -> "Rates":
        """Measures this machine, which takes about a second."""
        x = torch.randn(TRIAL, TRIAL, generator=torch.Generator().manual_seed(0))
        gram = x @ x.T / TRIAL + torch.eye(TRIAL)
        cube, wide = float(TRIAL) ** 3, gram.double()
        return cls(
            single=2 * cube / _time_fastest(lambda: x @ x),
            double=2 * cube / _time_fastest(lambda: wide @ wide),
            rounded=2 * cube / _time_fastest(lambda: multiply(x, x, "auto")),
            cholesky=cube / _time_fastest(lambda: torch.linalg.cholesky(wide)),
        )


@dataclass(frozen=True)
class Costs:
    """Seconds and memory of what a stage does beside running the graph.

    Attributes:
        rates: What this machine computes in a second.
        settings: The options of the run.
        parts: Number of parts that the data are divided into: fit, and choice where there is one.
    """

    rates: Rates
    settings: Settings
    parts: int

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
                one = product / rates.rounded + PASS * linear.parameters / torch.get_num_threads()
                total += ITERATIONS[self.settings.effort] * one
                total += (2 + 5 * (self.parts - 1)) * product / rates.double  # the target, and the choice of the blend
        if self.aims:
            total += sum(self.parts * k**3 / rates.cholesky for k in widths)
            for group in group_by_input(linears):
                heights, width = [linear.n for linear in group], group[0].k
                total += count_inverses(heights, width, self.settings.effort) * INVERSE * width**3 / rates.single
        return total

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
            total += 2 * tokens * linear.k**2 / self.rates.single + linear.k**3 / self.rates.cholesky
            total += SWEEPS * groups**2 / 2 * rows / PAIR_ROWS
        return total


@dataclass
class _ModelWalk:
    """What running one batch through the dense model showed."""

    base_mb: float
    spill_mb: float  # the most that activations take between stages
    is_cached: bool = True  # the model's files fit into the system's cache: only the first read is slow
    loading: float = 0.0  # seconds to read every weight once
    running: float = 0.0  # seconds of one batch
    tokens: float = 0.0  # the most rows that one batch becomes before a layer
    stages: list[StagePlan] = field(default_factory=list)


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
    progress: Progress,
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
        progress: Where to show progress.
    """
    fit = make_batches(parts.fit, graph.inputs, "fit", size)
    costs = Costs(Rates.measure(), settings, 2 if parts.choice else 1)
    samples = max(1, min(size, len(parts.fit)))  # of the batch that is run here
    repeats = (len(parts.fit) + len(parts.choice)) / samples
    return_free_memory()
    is_cached = 4.0 * graph.parameters < find_available_memory(torch.device("cpu")) / 2
    stages = schedule(graph, linears) if fit else []
    spill = find_spill(stages, settings, costs.parts, graph.path.parent)
    walk = _ModelWalk(measure_resident_mb(), spill.limit / MB, is_cached)
    values: dict[str, Any] = dict(fit[0].feeds) if fit else {}
    done = resumed.layers if resumed is not None else frozenset[str]()
    with progress.stage("plan", len(stages)) as tick:
        for stage in stages:
            runner = StageRunner(graph, stage, {})
            values = _walk_stage(runner, stage, values, repeats, costs=costs, walk=walk, done=done)
            tick()
    reports = 2 * len(parts.report) / samples  # batches of the accuracy, dense and sparse
    # Opened twice; run twice on few samples before any work, read, written, verified, and run once for the estimate.
    checks = 2 * opening + 8 * walk.loading + 3 * walk.running / samples
    accuracy = reports * (walk.running + walk.loading)
    files = 4.0 * graph.parameters * (1 / COPIED + 2 / DIGESTED)  # the model copied, both digested
    seconds = checks + accuracy + files + sum(stage.seconds for stage in walk.stages)
    memory = max((stage.memory_mb for stage in walk.stages), default=walk.base_mb)
    if permutes and not (resumed is not None and resumed.permuted):
        observed = min(SAMPLES, len(parts.fit)) / samples  # batches
        seconds += 3 * opening + observed * walk.running + walk.loading + files
        seconds += costs.search_seconds(linears, observed * walk.tokens)
        memory = max(memory, walk.base_mb + costs.search_mb(linears))
    return Plan(memory, seconds, tuple(walk.stages), refines, resumed=resumed)


def _walk_stage(
    runner: StageRunner,
    stage: Stage,
    values: dict[str, Any],
    repeats: float,
    *,
    costs: Costs,
    walk: _ModelWalk,
    done: frozenset[str],
) -> dict[str, Any]:
    """Runs one stage twice, the first time with its weights to load; returns what later stages read."""
    first, _ = _time_action(lambda: runner.run(values))
    again, results = _time_action(lambda: runner.run(values))
    if walk.is_cached:
        first, _ = _time_action(lambda: StageRunner(runner.graph, stage, {}).run(values))  # from memory now
    loading = max(0.0, first - again)
    walk.loading += loading
    walk.running += again
    kept = {name: value for name, value in results.items() if name in stage.kept}
    inputs = {(use.activation, use.view, use.expert): linear for linear, use in stage.observed}
    tokens = {key: _tokens(linear, results[key[0]]) for key, linear in inputs.items()}
    walk.tokens = max(walk.tokens, *tokens.values(), 0.0)
    widths = [linear.k for linear in inputs.values()]
    held = 2 * repeats * _mb(kept.values())  # of which as much goes to disk as does not fit
    streams = min(held, walk.spill_mb) + 2 * _mb(results[name] for name in stage.fetches)
    weights = 2 * 4 * sum(linear.parameters for linear, _ in stage.observed) / MB
    memory, seconds = walk.base_mb + streams + weights, 2 * (loading + repeats * again)
    if not all(linear.name in done for linear, _ in stage.observed):
        memory += estimate_stage_mb(stage, costs.settings, costs.parts)
        linears = [linear for linear in stage.linears if linear.name not in done]
        widest = find_widest(costs.settings.method) or math.inf  # columns: a baseline reads no wider Gram matrix
        widths, linears = [k for k in widths if k <= widest], [linear for linear in linears if linear.k <= widest]
        seconds += costs.seconds(widths, linears, repeats * max(tokens.values(), default=0))
    walk.stages.append(StagePlan(tuple(linear.name for linear in stage.linears), memory, seconds))
    return kept


def _tokens(linear: Linear, activation: Any) -> float:
    """Rows of the matrix that an activation becomes, as far as its size tells."""
    entries = activation.numel() if isinstance(activation, torch.Tensor) else activation.size
    return float(entries / linear.k)


def _mb(values: Iterable[Any]) -> float:
    return sum(float(getattr(value, "nbytes", 0)) for value in values) / MB


def _time_action(action: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def _time_fastest(action: Callable[[], Any]) -> float:
    return min(_time_action(action)[0] for _ in range(3))
