"""Latency of the sparse model against the dense one: interleaved on the same inputs, and whether to trust the figures.

Engines differ only in how they run once and how they time: everything here is pure and deterministic, given the times.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from prox24_export.engines.timing.agreement import TOLERANCE, OutputArrays, difference
from prox24_export.engines.timing.gpu_state import GpuState, locked
from prox24_export.engines.timing.statistics import Rounds, distribution, ratio
from prox24_export.errors import Prox24Error
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.results.engine import LatencyPoint

CLOCKS_APART = 1.05  # largest clock over the smallest that is not worth a warning
UNLOCKED = (
    "the GPU's clocks are not locked: times may drift. Lock them with `nvidia-smi --lock-gpu-clocks` for figures to "
    "compare with others"
)
UNKNOWN_CLOCKS = "whether the GPU's clocks are locked is not known here"


class Timed(Protocol):
    """A model ready to run on fixed inputs."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def outputs(self) -> dict[str, Array]:
        """One inference: outputs by name, in host memory."""

    def times(self, runs: int) -> list[float]:
        """Milliseconds of each of `runs` consecutive inferences, transfers between host and device excluded."""

    def close(self) -> None:
        """Gives back what it holds."""


@dataclass(frozen=True)
class Procedure:
    """How long and how often is measured. Warm-up and duration count the models' own time, like trtexec's.

    Attributes:
        warm_up_ms: Of each model, not recorded.
        duration_ms: Of each model, recorded at least, unless `most_runs` is reached before.
        least_rounds: In each of which every model has one turn; what the interval rests on.
        most_runs: Recorded of each model, after which no further round begins once there are `least_rounds`.
        turn_ms: How long a turn is meant to last; a slower model runs once.
        most_variation: Coefficient of variation above which a measurement is invalid.
        resamples: Of the bootstrap.
        resolution_ms: Of the timer; CUDA events have about half a microsecond.
        seed: Of the bootstrap.
        watch_every: Rounds between two looks at the GPU's state.
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
    """What the timed engines must compute, from the same models in float32 by another runtime.

    A pruned model's outputs differ from the dense one's, rightly: the sparse engine is compared with the sparse model.

    Attributes:
        dense: Outputs of the dense model on the timed inputs.
        sparse: Outputs of the sparse model on them.
        tolerance: See `agreement.TOLERANCE`, which has it by precision.
    """

    dense: OutputArrays
    sparse: OutputArrays
    tolerance: float

    @classmethod
    def of(cls, dense: TracedGraph, sparse: TracedGraph, feeds: Feeds, precision: str) -> "Reference":
        """Both models, run by their own runtime.

        Raises:
            InputError: A model cannot be run.
        """
        return cls(_outputs(dense, feeds), _outputs(sparse, feeds), TOLERANCE[precision])


def measure(
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
        sparse: The sparse one.
        flag_off: The sparse model without sparse kernels; None where the engine has no such switch.
        shapes: Of the inputs, by name, in the model's order.
        reference: What they must compute.
        procedure: How long and how often; the defaults where None.
        watch: Reads the GPU's state, at once; None where there is no GPU.
        warnings: What the engine has to say of these figures.

    Raises:
        Prox24Error: A model returned other than as many positive, finite times as were asked for.
    """
    how = procedure or Procedure()
    models = [dense, sparse, *([flag_off] if flag_off is not None else [])]
    wanted = [reference.dense, reference.sparse, reference.sparse]
    reasons = _differences(models, wanted, reference.tolerance, "before timing")
    states = [watch()] if watch else []
    rounds = _rounds(models, how, watch, states)
    states += [watch()] if watch else []
    reasons = reasons or _differences(models, wanted, reference.tolerance, "after timing")
    seen = [distribution(times) for times in rounds]
    reasons += [
        f"{model.name}: coefficient of variation {100 * found.variation:.1f} %, more than "
        f"{100 * how.most_variation:.1f} %"
        for model, found in zip(models, seen, strict=True)
        if found.variation > how.most_variation
    ]
    reasons += _throttling(states)
    compare = partial(ratio, resamples=how.resamples, resolution=how.resolution_ms, seed=how.seed)
    return LatencyPoint(
        shapes=dict(shapes),
        batch=_batch(shapes),
        dense=seen[0],
        sparse=seen[1],
        flag_off=seen[2] if flag_off is not None else None,
        speedup=compare(rounds[0], rounds[1]),
        flag_speedup=compare(rounds[2], rounds[1]) if flag_off is not None else None,
        valid=not reasons,
        reasons=tuple(reasons),
        warnings=(*warnings, *_clocks(states)),
    )


def _outputs(graph: TracedGraph, feeds: Feeds) -> dict[str, Array]:
    return dict(zip(graph.outputs, graph.runner()(feeds), strict=True))


def _differences(models: Sequence[Timed], wanted: Sequence[OutputArrays], tolerance: float, when: str) -> list[str]:
    reasons = []
    for model, reference in zip(models, wanted, strict=False):  # a reference more where there is no third model
        told = difference(model.outputs(), reference, tolerance)
        if told:
            reasons.append(f"{model.name}: outputs differ from the same model in float32, {when}: {told}")
    return reasons


def _rounds(
    models: Sequence[Timed], how: Procedure, watch: Callable[[], GpuState] | None, states: list[GpuState]
) -> list[Rounds]:
    """Times [rounds, runs] of each model. Every order of the models comes equally often, so that none is favoured."""
    runs = max(1, min(_turn(model, how) for model in models))
    orders = list(itertools.permutations(range(len(models))))
    seen: list[list[list[float]]] = [[] for _ in models]
    for index, order in enumerate(itertools.cycle(orders)):
        if index % len(orders) == 0 and _is_enough(seen, runs, how):
            break
        if watch and index and index % how.watch_every == 0:
            states.append(watch())
        for place in order:
            seen[place].append(_checked(models[place], runs))
    return [np.array(times, dtype=np.float64) for times in seen]


def _is_enough(seen: Sequence[Sequence[Sequence[float]]], runs: int, how: Procedure) -> bool:
    if len(seen[0]) < max(1, how.least_rounds):
        return False
    shortest = min(sum(map(sum, times)) for times in seen)
    return shortest >= how.duration_ms or len(seen[0]) * runs >= how.most_runs


def _turn(model: Timed, how: Procedure) -> int:
    """Warms a model up, in batches that double, and says how many runs fill a turn."""
    total, runs, times = 0.0, 1, [math.inf]
    while total < how.warm_up_ms:
        times = _checked(model, runs)
        total += sum(times)
        runs *= 2
    fill = how.turn_ms / float(np.median(times))
    return max(1, min(int(fill), how.most_runs // max(1, how.least_rounds)))


def _checked(model: Timed, runs: int) -> list[float]:
    times = model.times(runs)
    if len(times) != runs or not all(0 < time < math.inf for time in times):
        raise Prox24Error(
            f"{model.name}: expected {runs} positive, finite times in milliseconds. Got {len(times)}: {times[:3]}. "
            "Please report this."
        )
    return times


def _throttling(states: Sequence[GpuState]) -> list[str]:
    seen = dict.fromkeys(reason for state in states for reason in state.throttled)
    return [f"the GPU was throttled while it was timed: {', '.join(seen)}"] if seen else []


def _clocks(states: Sequence[GpuState]) -> list[str]:
    """What the clocks make doubtful."""
    told = []
    held = locked(states)
    if states and not held:
        told.append(UNLOCKED if held is False else UNKNOWN_CLOCKS)
    clocks = [state.sm_mhz for state in states if state.sm_mhz and not state.idle]
    if clocks and max(clocks) > CLOCKS_APART * min(clocks):
        told.append(f"the GPU's clock was between {min(clocks)} and {max(clocks)} MHz")
    return told


def _batch(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """First axis of the first input; 1 where it has none."""
    first = next(iter(shapes.values()), ())
    return first[0] if first else 1
