"""Before anything is pruned: input channels in the order in which 2:4 costs least, in a copy that computes the same."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prox24_export.data.batches import make_batches
from prox24_export.data.random_samples import draw_random
from prox24_export.errors import InputError, Prox24Error, first_line
from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT
from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import Streams
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.permute.apply import move_tensors
from prox24_export.passes.permute.aten_trace import trace_to_aten
from prox24_export.passes.permute.find_spaces import ChannelSpace, FindSpaces
from prox24_export.passes.permute.search import OrderedSpace, Saliency, compose, reorder, search_order
from prox24_export.results.permutation import AxisOrder, PermutationReport, SpaceReport, SpaceState, StoredAxis
from prox24_export.solver.exchange import prepare_search
from prox24_export.solver.layer import SolverSettings, solve_layer
from prox24_export.stages.journal import ChannelsRecord, Journal
from prox24_export.stages.memory import find_memory_limit, find_spill
from prox24_export.stages.prepare import Job
from prox24_export.stages.run import Run

LEAST_GAIN = 0.02  # share by which the readers' errors must become smaller for an order to change by itself
SAMPLES, FEWEST_SAMPLES = 128, 8  # that the Gram matrices of the search are summed over
MEMORY_BY_DEFAULT, MINUTES_BY_DEFAULT = 4 << 30, 2.0
ROWS_SOLVED = 64  # of each reader, to see what the solver makes of an order
WIDEST_SOLVED, SOLVED_BYTES = 1024, 1 << 29  # K of a reader, and bytes of all Gram matrices, up to which that is done
AxisOrders = Mapping[tuple[str, int], Array]
"""For each entry of the copy, the entry of the source that it is, by stored tensor and axis."""
NARROW = {"float16", "bfloat16"}
DEVIATION, DEVIATION_OF_NARROW = 1e-3, 5e-2  # of the outputs, as a share of them: sums are rounded in another order


@dataclass(frozen=True)
class PermutedModel:
    """The dense model with its channels in the order in which it is pruned.

    Attributes:
        job: The job, with the permuted model in the place of the user's; the same where no order changes.
        moved: The stored tensors that change, by name.
        report: What was found; None where it was not wanted.
    """

    job: Job
    moved: Mapping[str, Array] = field(default_factory=dict)
    report: PermutationReport | None = None


@dataclass(frozen=True)
class _Readers:
    """What is known of the layers that read free spaces.

    Attributes:
        saliencies: What leaving out an entry costs, by name of the layer.
        weights: The dense weights [N, K], as far as the solver looks at them.
        grams: Gram matrices of their inputs [K, K], as far as the solver looks at them.
    """

    saliencies: dict[str, Saliency] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    grams: dict[str, Tensor] = field(default_factory=dict)


def permute(job: Job, scratch: Path, run: Run, journal: Journal) -> PermutedModel:
    """Finds the order of every free channel space in which its readers lose least, and applies it to a copy.

    Args:
        job: What is to be done.
        scratch: Folder for the copy, and for activations that do not fit in memory.
        run: Takes the time, and the warning where the copy computes something else.
        journal: Has the order that an earlier run has found, and takes the one that is found here.
    """
    if job.settings.permute == "no" or not job.linears:
        return PermutedModel(job)
    if (reason := why_not_by_default(job)) is not None:
        return PermutedModel(job, report=PermutationReport(reason))
    with run.timed("permute"):
        found = journal.read_channels()
        if found is None:
            found = _find_orders(job, scratch, run)
            if found.report is not None and found.report.spaces:
                journal.write_channels(found)
        run.warnings.extend(found.warnings)
        permuted = _apply(job, _read_orders(found.report), scratch, run)
    return permuted if permuted.report is not None else replace(permuted, report=found.report)


def _find_orders(job: Job, scratch: Path, run: Run) -> ChannelsRecord:
    """Searches the order of every free channel space."""
    started = time.perf_counter()
    try:
        spaces = FindSpaces().call(trace=trace_to_aten(job.graph, job.parts.fit[0].feeds), linears=job.linears)
    except Exception as error:  # noqa: BLE001 - of torch, or what it cannot trace; the model is pruned as it is
        said = str(error) if isinstance(error, Prox24Error) else first_line(error)
        return ChannelsRecord(PermutationReport(f"the graph cannot be followed: {said}"))
    rows, ordered, warnings = _search(job, spaces.spaces, scratch, run)
    orders = compose(ordered)
    reason = f"{len(ordered)} of {len(spaces.spaces)} channel spaces have a new order"
    report = PermutationReport(reason, tuple(rows), _describe_orders(orders), round(time.perf_counter() - started, 3))
    return ChannelsRecord(report, warnings)


def find_spaces(graph: TracedGraph, linears: Sequence[Linear]) -> list[SpaceReport]:
    """Finds the channel spaces of a model on random inputs; nothing is searched.

    Raises:
        InputError: The graph cannot be followed.
    """
    feeds = draw_random(graph.inputs, graph.gathered_rows, {}, 1, 0)[0].feeds
    try:
        spaces = FindSpaces().call(trace=trace_to_aten(graph, feeds), linears=linears).spaces
    except Exception as error:
        said = str(error).rstrip(".") if isinstance(error, Prox24Error) else first_line(error)
        raise InputError(f"{graph.path}: its channels cannot be followed: {said}. Leave out --channels.") from error
    states: dict[bool, SpaceState] = {True: "fixed", False: "kept"}
    return [_describe(space, states[bool(space.reason)], space.reason or "free") for space in spaces]


def why_not_by_default(job: Job) -> str | None:
    """Tells why channels keep their order unless that is asked for; None where it was asked for, or need not be."""
    if job.settings.permute != "auto":
        return None
    if job.facts is None or job.facts.is_random:
        return "random inputs do not show what an order costs (--calibration)"
    if (count := len(job.parts.fit)) < FEWEST_SAMPLES:
        return f"{count} samples tell little of what an order costs, {FEWEST_SAMPLES} would do (--permute all)"
    if job.settings.method not in AIMS_AT_DENSE_OUTPUT:
        return f"{job.settings.method} is a baseline to compare with (--permute all)"
    if 4 * job.graph.parameters > min(MEMORY_BY_DEFAULT, find_memory_limit(job.settings)):
        return f"the model takes {4 * job.graph.parameters / 2**30:.1f} GB of memory (--permute all)"
    return None


def _search(
    job: Job, spaces: Sequence[ChannelSpace], scratch: Path, run: Run
) -> tuple[list[SpaceReport], list[OrderedSpace], tuple[str, ...]]:
    """A row of the report for each space, those that are given a new order, and what the user should know of it."""
    free = [space for space in spaces if not space.reason]
    read = {reader.layer for space in free for block in space.blocks for reader in block.readers}
    linears = [linear for linear in job.linears if linear.name in read]
    known = _observe(job, linears, scratch, run)
    minutes = job.settings.permute_minutes
    if minutes is None and job.settings.permute == "auto":
        minutes = MINUTES_BY_DEFAULT
    prepare_search()
    end = time.monotonic() + (60 * minutes if minutes is not None else float("inf"))
    rows, chosen, is_finished = [], [], True
    with run.progress.stage("search channel orders", len(free)) as tick:
        for space in spaces:
            if space.reason:
                rows.append(_describe(space, "fixed", space.reason))
                continue
            left = max(0.0, end - time.monotonic())
            found = search_order(space, known.saliencies, seed=job.settings.seed, seconds=left)
            is_finished &= found.is_finished
            row, is_chosen = _decide(job, found, known)
            rows.append(row)
            chosen.extend([found] if is_chosen else [])
            tick()
    if is_finished:
        return rows, chosen, ()
    warning = (
        f"The search for an order of channels was cut short by its limit of {minutes:g} minutes "
        "(--permute-minutes): on another machine it may find another order."
    )
    return rows, chosen, (warning,)


def _observe(job: Job, linears: Sequence[Linear], scratch: Path, run: Run) -> _Readers:
    """Runs the dense model, and computes what leaving out each entry of its layers would cost."""
    known = _Readers()
    samples = job.parts.fit[:SAMPLES]
    batches = make_batches(samples, job.graph.inputs, "fit", job.size)
    stages = schedule(job.graph, linears)
    streams = Streams(job.graph, batches, find_spill(stages, job.settings, 1, scratch))
    calibrate = Calibrate(with_cross=False)
    held = 0
    with run.progress.stage("observe channels", len(stages) * len(batches)) as tick:
        for stage in stages:
            seen = calibrate.call(streams=streams, stage=stage, weights={}, tick=tick).observations
            for linear in stage.linears:
                gram = seen[linear.name].fit.gram
                if not bool(gram.diagonal().any()):
                    continue
                weight = job.graph.weight(linear)
                known.saliencies[linear.name] = Saliency.of(weight, gram)
                if linear.k <= WIDEST_SOLVED and held + gram.nbytes <= SOLVED_BYTES:
                    held += gram.nbytes
                    chosen = np.random.default_rng(job.settings.seed).permutation(linear.n)[:ROWS_SOLVED]
                    known.grams[linear.name] = gram
                    known.weights[linear.name] = weight[torch.from_numpy(np.sort(chosen))]
    return known


def _decide(job: Job, found: OrderedSpace, known: _Readers) -> tuple[SpaceReport, bool]:
    """A row of the report for a space that was searched, and whether its order changes."""
    space, promised = found.space, found.promised
    least = LEAST_GAIN if job.settings.permute == "auto" else 0.0
    if found.is_identity or promised < least:
        return _describe(space, "kept", f"another order promises {100 * promised:.1f} % less error", promised), False
    gain = _solve_both_ways(found, known)
    if gain is not None and (gain <= 0 or gain < least):
        why = f"the solver finds {100 * gain:.1f} % less error in another order"
        return _describe(space, "kept", why, promised, gain), False
    return replace(_describe(space, "permuted", "", promised, gain), order=tuple(found.order.tolist())), True


def _solve_both_ways(found: OrderedSpace, known: _Readers) -> float | None:
    """The share by which the solver's errors become smaller; None where a reader is too large to be tried."""
    before = after = 0.0
    for layer, columns in _list_readers(found):
        if layer not in known.grams:
            return None
        weight, gram = known.weights[layer], known.grams[layer]
        order = torch.from_numpy(_order_columns(columns, found, len(gram)))
        for matrix, moments, is_new in ((weight, gram, False), (weight[:, order], gram[order][:, order], True)):
            error = solve_layer(matrix, moments, settings=SolverSettings(damping=0.01)).relative_error
            before, after = (before, after + error) if is_new else (before + error, after)
    return 1 - after / before if before > 0 else None


def _list_readers(found: OrderedSpace) -> list[tuple[str, list[tuple[Array, Array]]]]:
    """For each reader, the channels and the columns of every block that it reads."""
    readers: dict[str, list[tuple[Array, Array]]] = {}
    for block in found.space.blocks:
        channels = block.groups.reshape(-1)
        for reader in block.readers:
            columns = reader.columns.reshape(len(channels), -1)
            readers.setdefault(reader.layer, []).append((channels, columns))
    return list(readers.items())


def _order_columns(blocks: Sequence[tuple[Array, Array]], found: OrderedSpace, size: int) -> Array:
    """The order of a reader's columns."""
    result = np.arange(size)
    for channels, columns in blocks:
        row = np.argsort(channels)[np.searchsorted(np.sort(channels), found.order[channels])]
        result = result[reorder(columns, row, size)]
    return result


def _apply(job: Job, orders: AxisOrders, scratch: Path, run: Run) -> PermutedModel:
    """Writes the permuted copy, opens it, and compares it with the model as it came."""
    moved = move_tensors(job.graph, orders)
    if not moved:
        return PermutedModel(job)
    folder = scratch / "permuted"
    folder.mkdir()
    path = job.frontend.write(job.graph, moved, folder)
    graph = job.frontend.find_written(path).open()
    deviation = _compare(job, graph)
    if not deviation <= _limit(job):
        run.warnings.append(
            f"With its channels in another order the dense model's outputs differ by {100 * deviation:.2g} %: the "
            "order of the source is kept. Please report this; --permute no leaves out the search."
        )
        return PermutedModel(job, report=PermutationReport("the permuted model computes something else"))
    return PermutedModel(replace(job, opened=replace(job.opened, graph=graph)), moved)


def _limit(job: Job) -> float:
    return DEVIATION_OF_NARROW if NARROW & {linear.dtype for linear in job.linears} else DEVIATION


def _compare(job: Job, permuted: TracedGraph) -> float:
    """The largest deviation of an output, relative to the output's size, on one batch."""
    (batch, *_) = make_batches(job.parts.fit[: job.size], job.graph.inputs, "fit", job.size)
    largest = 0.0
    for one, other in zip(job.graph.runner()(batch.feeds), permuted.runner()(batch.feeds), strict=True):
        if one.shape != other.shape:
            return float("inf")
        if np.issubdtype(one.dtype, np.floating):
            wide, wide_other = one.astype(np.float64), other.astype(np.float64)
            differ = ~((wide == wide_other) | (np.isnan(wide) & np.isnan(wide_other)))
            size = float(np.linalg.norm(wide[np.isfinite(wide)]))
            distance = float(np.linalg.norm((wide - wide_other)[differ]))
            largest = max(largest, distance / size if size else distance)
    return largest


def _describe(
    space: ChannelSpace, state: SpaceState, reason: str = "", promised: float | None = None, found: float | None = None
) -> SpaceReport:
    promised, found = (None if share is None else round(share, 4) for share in (promised, found))
    return SpaceReport(space.name, space.size, max(1, len(space.blocks)), space.readers, state, reason, promised, found)


def _read_orders(report: PermutationReport | None) -> AxisOrders:
    """The orders that a report lists; the inverse of `_describe_orders`."""
    orders = () if report is None else report.orders
    return {(axis.tensor, axis.axis): np.array(found.order) for found in orders for axis in found.axes}


def _describe_orders(orders: AxisOrders) -> tuple[AxisOrder, ...]:
    axes: dict[tuple[int, ...], list[StoredAxis]] = {}
    for (tensor, axis), order in orders.items():
        axes.setdefault(tuple(order.tolist()), []).append(StoredAxis(tensor, axis))
    return tuple(AxisOrder(order, tuple(places)) for order, places in axes.items())
