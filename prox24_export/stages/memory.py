"""The memory that a run may take: what the matrices of a stage need of it, and what is left for activations."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prox24_export.errors import InputError
from prox24_export.facts.free_memory import find_free_host_memory, find_free_memory
from prox24_export.facts.machine import measure_anonymous_mb
from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT
from prox24_export.passes.calibrate.frontier import Spill
from prox24_export.passes.calibrate.schedule import Stage, schedule
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.settings import Settings
from prox24_export.solver.costs import estimate_solver_bytes
from prox24_export.stages.norms import find_widest

MB, GB = 2**20, 2**30
SHARE_BY_DEFAULT = 0.8  # of what is free when a run begins
MARGIN = 1.1  # of what is needed over what is counted: buffers of libraries, one batch of activations
BASELINE_BYTES = 10  # of an entry of the largest weight: a baseline holds weight, solution and mask
CONVERSION = 1.2  # of a float32 model's bytes that converting it to another precision takes, as measured


def find_memory_limit(settings: Settings) -> float:
    """Finds how many bytes this process may take: what `--memory` says, or most of what is free."""
    if settings.memory is not None:
        return settings.memory * GB
    return measure_anonymous_mb() * MB + SHARE_BY_DEFAULT * find_free_host_memory()


def find_memory_left(settings: Settings) -> float:
    """Finds how many bytes this process may still take: what is free, and what `--memory` leaves of it."""
    free = float(find_free_host_memory())
    return free if settings.memory is None else min(free, settings.memory * GB - measure_anonymous_mb() * MB)


def find_spill(
    stages: Sequence[Stage], settings: Settings, parts: int, folder: Path, device: torch.device | None = None
) -> Spill:
    """Finds how many bytes of activations stay in memory between stages, beside the matrices of the largest stage.

    Args:
        stages: The stages of the run.
        settings: The options of the run.
        parts: Number of parts that the data are divided into.
        folder: Where the other activations go.
        device: The GPU that has the matrices, and as many activations as it has room for; None for the host.
    """
    matrices = max((estimate_stage_mb(stage, settings, parts) for stage in stages), default=0.0)
    if device is not None:
        room = find_free_memory(device) - MARGIN * matrices * MB
        left = find_memory_limit(settings) - measure_anonymous_mb() * MB
        return Spill(folder, max(0.0, left / 2), max(0.0, room / 2))
    left = find_memory_limit(settings) - (measure_anonymous_mb() + MARGIN * matrices) * MB
    return Spill(folder, max(0.0, left / 2))  # the other half is for what a stage computes of them


def expect_memory(graph: TracedGraph, linears: Sequence[Linear], settings: Settings, parts: int) -> None:
    """Expects `--memory` to be enough for the largest stage.

    Raises:
        InputError: It is not; the message says what would do, as far as it is known before the work.
    """
    if settings.memory is None or not linears:
        return
    stages = schedule(graph, linears)
    sizes = [estimate_stage_mb(stage, settings, parts) for stage in stages]
    largest = sizes.index(max(sizes))
    least = (measure_anonymous_mb() + MARGIN * sizes[largest]) * MB
    if settings.memory * GB < least:
        names = ", ".join(linear.name for linear, _ in stages[largest].observed[:3])
        raise InputError(
            f"--memory {settings.memory:g} is too little: this run takes at least {_round_up(least / GB)} GB, "
            f"{sizes[largest] / 1024:.2g} of them for the Gram matrices before {names}. Give --memory "
            f"{_round_up(least / GB)}, or leave these layers dense with --exclude."
        )


def expect_memory_to_convert(graph: TracedGraph, settings: Settings) -> None:
    """Expects room for the whole model where `--precision` converts it, since that does not read it in pieces.

    Raises:
        InputError: It does not fit into what is free, or into what `--memory` says.
    """
    if settings.precision in {None, "fp32"}:
        return
    needed = CONVERSION * 4.0 * graph.parameters
    left = find_memory_limit(settings) - measure_anonymous_mb() * MB
    if needed > left:
        raise InputError(
            f"--precision {settings.precision} reads the whole model, which takes about {_round_up(needed / GB)} GB, "
            f"and {max(0.0, left) / GB:.1f} GB are left for it. Leave --precision out, and "
            "convert the sparse model where there is more memory."
        )


def estimate_stage_mb(stage: Stage, settings: Settings, parts: int) -> float:
    """Estimates the most MB that the matrices of a stage take while it is observed and its layers are solved."""
    aims = settings.method in AIMS_AT_DENSE_OUTPUT
    solver = estimate_solver_mb(_list_widths(stage, settings), stage.linears, aims=aims, parts=parts)
    return max(estimate_observing_mb(stage, settings, parts), solver)


def estimate_observing_mb(stage: Stage, settings: Settings, parts: int) -> float:
    """Estimates the most MB that the matrices of a stage take while it is observed, which no smaller blocks change."""
    return estimate_sums_mb(_list_widths(stage, settings), aims=settings.method in AIMS_AT_DENSE_OUTPUT, parts=parts)


def _list_widths(stage: Stage, settings: Settings) -> list[int]:
    """The columns of the inputs whose Gram matrices are summed."""
    widths = [layers[0].k for layers in group_by_input([linear for linear, _ in stage.observed])]
    widest = find_widest(settings.method)
    return widths if widest is None else [width for width in widths if width <= widest]


def estimate_sums_mb(widths: Sequence[int], *, aims: bool, parts: int) -> float:
    """Estimates the MB of float64 Gram matrices of such widths, and of the float32 products of one chunk.

    Args:
        widths: Columns of each input.
        aims: Whether there is a cross Gram matrix too.
        parts: Number of parts that the data are divided into: fit, and choice where there is one.
    """
    matrices = 2 if aims else 1
    return matrices * (8 * parts * sum(k * k for k in widths) + 4 * max(widths, default=0) ** 2) / MB


def estimate_solver_mb(widths: Sequence[int], linears: Sequence[Linear], *, aims: bool, parts: int) -> float:
    """Estimates the peak MB while layers are solved: the sums, and what is made of them for the widest input.

    Args:
        widths: Columns of each input.
        linears: The layers that are solved.
        aims: Whether there is a cross Gram matrix, a target and an iteration.
        parts: Number of parts that the data are divided into.
    """
    widest = max(widths, default=0) ** 2
    matrices = 2 if aims else 1
    sums = matrices * 8 * parts * sum(k * k for k in widths) / MB
    if not aims:
        return sums + (16 * widest + BASELINE_BYTES * max((one.n * one.k for one in linears), default=0)) / MB
    merged = matrices * 8 * widest * (parts - 1) / MB  # gone before a layer is solved
    groups = [([layer.n for layer in group], group[0].k) for group in group_by_input(linears)]
    solving = max((estimate_solver_bytes(*group) for group in groups), default=0.0) / MB
    return sums + 8 * widest / MB + max(0.0, solving - merged)  # the factor, and what is solved with it


def group_by_input(linears: Sequence[Linear]) -> list[list[Linear]]:
    """Groups layers that read the same input in the same way."""
    groups: dict[Any, list[Linear]] = {}
    for linear in linears:
        use = linear.uses[0]
        groups.setdefault((use.activation, use.view, use.expert), []).append(linear)
    return list(groups.values())


def _round_up(gigabytes: float) -> float:
    return math.ceil(10 * gigabytes) / 10
