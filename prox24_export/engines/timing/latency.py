"""The latency of the sparse model against the dense one, in turns on the same inputs, and whether to trust the figures.

Engines differ only in how they run and how they take the time; given the times, everything here is deterministic.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from prox24_export.engines.timing.agreement import TOLERANCE, OutputArrays, describe_difference
from prox24_export.engines.timing.gpu_state import GpuState, are_clocks_locked
from prox24_export.engines.timing.statistics import Rounds, compare_times, summarise_times
from prox24_export.errors import Prox24Error
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.results.engine import LatencyPoint

CLOCKS_APART = 1.05  # ratio of the largest to the smallest clock above which there is a warning
UNLOCKED = (
    "the GPU's clocks are not locked: times may drift. Lock them with `nvidia-smi --lock-gpu-clocks` for figures to "
    "compare with others"
)
UNKNOWN_CLOCKS = "whether the GPU's clocks are locked is not known here"


class Timed(Protocol):
    """A model that is ready to run, with fixed inputs."""

    @property
    def name(self) -> str:
        """What messages call the model."""

    def outputs(self) -> dict[str, Array]:
        """Runs one inference and returns its outputs by name, in host memory."""

    def times(self, runs: int) -> list[float]:
        """Returns the milliseconds of each of `runs` consecutive inferences, without transfers to and fro."""

    def close(self) -> None:
        """Gives back the memory that the model holds."""


@dataclass(frozen=True)
class Procedure:
    """How long and how often to measure. Warm-up and duration count the models' own time, like those of trtexec.

    Attributes:
        warm_up_ms: How long each model runs before its times are recorded, in milliseconds.
        duration_ms: The least time that is recorded of each model, in milliseconds, unless `most_runs` comes first.
        least_rounds: The fewest rounds, in each of which every model has one turn; the interval rests on rounds.
        most_runs: The number of recorded runs of each model after which no round begins, once there are `least_rounds`.
        turn_ms: How long a turn is meant to last, in milliseconds; a model that is slower runs once.
        most_variation: The coefficient of variation above which a measurement is invalid.
        resamples: The number of resamples of the bootstrap.
        resolution_ms: The resolution of the timer; that of CUDA events is about half a microsecond.
        seed: The seed of the bootstrap.
        watch_every: The number of rounds between two readings of the GPU's state.
    """

    warm_up_ms: float = 500.0
    duration_ms: float = 3000.0
    least_rounds: int = 30
    most_runs: int = 10_000
    turn_ms: float = 20.0
    most_variation: float = 0.025
    resamples: int = 2000
    resolution_ms: float = 0.0005
    seed: int = 0
    watch_every: int = 5


@dataclass(frozen=True)
class Reference:
    """What the timed engines must compute: the outputs of the same models in float32, from another runtime.

    The sparse engine is compared with the sparse model, since a pruned model's outputs rightly differ from the dense
    one's.

    Attributes:
        dense: The outputs of the dense model on the timed inputs, by name.
        sparse: The outputs of the sparse model on them, by name.
        tolerance: The largest difference that counts as agreement; `agreement.TOLERANCE` has it by precision.
    """

    dense: OutputArrays
    sparse: OutputArrays
    tolerance: float

    @classmethod
    def of(cls, dense: TracedGraph, sparse: TracedGraph, feeds: Feeds, precision: str) -> "Reference":
        """The outputs of both models, each run by its own runtime.

        Raises:
            InputError: A model cannot be run.
        """
        return cls(_run_once(dense, feeds), _run_once(sparse, feeds), TOLERANCE[precision])


def measure_latency(
    dense: Timed,
    sparse: Timed,
    flag_off: Timed | None,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    reference: Reference,
    procedure: Procedure | None = None,
    watch: Callable[[], GpuState] | None = None,
    warnings: Sequence[str] = (),
) -> LatencyPoint:
    """Times the models in turns and says whether the figures can be trusted.

    Args:
        dense: The dense model.
        sparse: The sparse model.
        flag_off: The sparse model without sparse kernels; None where the engine has no such switch.
        shapes: The shapes of the inputs by name, in the model's order.
        reference: What the models must compute.
        procedure: How long and how often to measure; the defaults where None.
        watch: Returns the GPU's state at once; None where there is no GPU, or its state cannot be read.
        warnings: What the engine has to say of these figures, a sentence each.

    Raises:
        Prox24Error: A model did not return as many positive, finite times as were asked for.
    """
    how = procedure or Procedure()
    models = [dense, sparse, *([flag_off] if flag_off is not None else [])]
    wanted = [reference.dense, reference.sparse, reference.sparse]
    reasons = _find_differences(models, wanted, reference.tolerance, "before timing")
    states = [watch()] if watch else []
    rounds = _time_rounds(models, how, watch, states)
    states += [watch()] if watch else []
    reasons = reasons or _find_differences(models, wanted, reference.tolerance, "after timing")
    seen = [summarise_times(times) for times in rounds]
    reasons += [
        f"{model.name}: coefficient of variation {100 * found.variation:.1f} %, more than "
        f"{100 * how.most_variation:.1f} %"
        for model, found in zip(models, seen, strict=True)
        if found.variation > how.most_variation
    ]
    reasons += _describe_throttling(states)
    compare = partial(compare_times, resamples=how.resamples, resolution=how.resolution_ms, seed=how.seed)
    return LatencyPoint(
        shapes=dict(shapes),
        batch=_find_batch_size(shapes),
        dense=seen[0],
        sparse=seen[1],
        flag_off=seen[2] if flag_off is not None else None,
        speedup=compare(rounds[0], rounds[1]),
        flag_speedup=compare(rounds[2], rounds[1]) if flag_off is not None else None,
        valid=not reasons,
        reasons=tuple(reasons),
        warnings=(*warnings, *_describe_clocks(states)),
    )


def _run_once(graph: TracedGraph, feeds: Feeds) -> dict[str, Array]:
    return dict(zip(graph.outputs, graph.runner()(feeds), strict=True))


def _find_differences(
    models: Sequence[Timed], wanted: Sequence[OutputArrays], tolerance: float, when: str
) -> list[str]:
    reasons = []
    for model, reference in zip(
        models, wanted, strict=False
    ):  # there is one reference too many where there is no third model
        difference = describe_difference(model.outputs(), reference, tolerance)
        if difference:
            reasons.append(f"{model.name}: outputs differ from the same model in float32, {when}: {difference}")
    return reasons


def _time_rounds(
    models: Sequence[Timed], how: Procedure, watch: Callable[[], GpuState] | None, states: list[GpuState]
) -> list[Rounds]:
    """Times the models in turns, and returns the times [rounds, runs] of each.

    Every order of the models comes equally often, so that none is favoured.
    """
    runs = max(1, min(_warm_up(model, how) for model in models))
    orders = list(itertools.permutations(range(len(models))))
    seen: list[list[list[float]]] = [[] for _ in models]
    for index, order in enumerate(itertools.cycle(orders)):
        if index % len(orders) == 0 and _is_enough(seen, runs, how):
            break
        if watch and index and index % how.watch_every == 0:
            states.append(watch())
        for place in order:
            seen[place].append(_time_runs(models[place], runs))
    return [np.array(times, dtype=np.float64) for times in seen]


def _is_enough(seen: Sequence[Sequence[Sequence[float]]], runs: int, how: Procedure) -> bool:
    if len(seen[0]) < max(1, how.least_rounds):
        return False
    shortest = min(sum(map(sum, times)) for times in seen)
    return shortest >= how.duration_ms or len(seen[0]) * runs >= how.most_runs


def _warm_up(model: Timed, how: Procedure) -> int:
    """Warms a model up, in batches that double, and says how many runs fill a turn."""
    total, runs, times = 0.0, 1, [math.inf]
    while total < how.warm_up_ms:
        times = _time_runs(model, runs)
        total += sum(times)
        runs *= 2
    fill = how.turn_ms / float(np.median(times))
    return max(1, min(int(fill), how.most_runs // max(1, how.least_rounds)))


def _time_runs(model: Timed, runs: int) -> list[float]:
    times = model.times(runs)
    if len(times) != runs or not all(0 < time < math.inf for time in times):
        raise Prox24Error(
            f"{model.name}: expected {runs} positive, finite times in milliseconds. Got {len(times)}: {times[:3]}. "
            "Please report this."
        )
    return times


def _describe_throttling(states: Sequence[GpuState]) -> list[str]:
    seen = dict.fromkeys(reason for state in states for reason in state.throttled)
    return [f"the GPU was throttled while it was timed: {', '.join(seen)}"] if seen else []


def _describe_clocks(states: Sequence[GpuState]) -> list[str]:
    """Describes what the clocks make doubtful, a sentence each."""
    doubts = []
    held = are_clocks_locked(states)
    if states and not held:
        doubts.append(UNLOCKED if held is False else UNKNOWN_CLOCKS)
    clocks = [state.sm_mhz for state in states if state.sm_mhz and not state.idle]
    if clocks and max(clocks) > CLOCKS_APART * min(clocks):
        doubts.append(f"the GPU's clock was between {min(clocks)} and {max(clocks)} MHz")
    return doubts


def _find_batch_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Finds the batch size: the first axis of the first input, or 1 where that has no axis."""
    first = next(iter(shapes.values()), ())
    return first[0] if first else 1
