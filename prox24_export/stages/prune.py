"""Pruning, stage by stage: a layer's input is observed in both streams, it is solved, and the next stage reads it."""

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from prox24_export.data.batches import make_batches
from prox24_export.data.samples import Parts
from prox24_export.errors import InputError
from prox24_export.facts.machine import return_free_memory
from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT
from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.moments import Observation
from prox24_export.passes.calibrate.schedule import Stage, schedule
from prox24_export.passes.calibrate.streams import Streams
from prox24_export.passes.find_linears import skip_unreached
from prox24_export.passes.graph.arrays import Array, is_finite
from prox24_export.passes.graph.protocol import Linear, Skipped, TracedGraph
from prox24_export.passes.sparsify import SolvedLayer, Sparsify
from prox24_export.progress import Progress, Steps
from prox24_export.results.device import HostWork
from prox24_export.results.mask import Thumbnail, make_thumbnail
from prox24_export.results.report import Executions, LayerReport
from prox24_export.settings import Settings
from prox24_export.stages.device import CPU, StagePlacement, place_on
from prox24_export.stages.journal import NO_RECORDS, LayerRecords
from prox24_export.stages.memory import find_spill
from prox24_export.stages.norms import find_widest, mask_by_norms
from prox24_export.stages.work.gpu_work import GpuWork
from prox24_export.stages.work.spread import SpreadWork, Team
from prox24_export.stages.work.stage_work import OwnWork, StageWork

BATCHES, LAYERS = "batches", "layers"  # kinds of steps of this stage


@dataclass(frozen=True)
class PrunedLayers:
    """What pruning leaves beside the weights: a row for every layer, a corner of every mask, what the host ran."""

    layers: Sequence[LayerReport]
    executions: Executions | None
    masks: Mapping[str, Thumbnail] = field(default_factory=dict)
    on_host: Sequence[HostWork] = ()


def prune(
    graph: TracedGraph,
    found: Sequence[Linear | Skipped],
    parts: Parts,
    weights: MutableMapping[str, Array],
    *,
    held_back: bool = False,
    scratch: Path,
    size: int,
    settings: Settings,
    progress: Progress,
    records: LayerRecords = NO_RECORDS,
    placement: StagePlacement | None = None,
    team: Team | None = None,
) -> PrunedLayers:
    """Prunes every layer, stage by stage: each stage reads what the pruned layers before it give.

    A stage whose layers are recorded by an earlier run is only run, so that later stages read what they would have
    read, bit by bit.

    Args:
        graph: The dense model.
        found: What `FindLinears` made of its nodes.
        parts: Samples; the report part is not looked at.
        weights: Takes the solved weights by name, as they are stored.
        held_back: Whether the choice part only chooses: masks and weights then do not see it.
        scratch: Folder for what is not kept in memory.
        size: How many samples are joined in one call of the model.
        settings: How the layers are solved.
        progress: Where to show progress.
        records: Has the layers that an earlier run has solved, and takes those that are solved here.
        placement: Where the stages of the model run; None for the host.
        team: Who does the work, on the host; None for this process alone.

    Raises:
        InputError: A weight or an activation holds NaN or Inf, or the workers have another model.
        Prox24Error: Work was lost with several workers.
    """
    rows = [describe_layer(layer, graph.parameters) for layer in found]
    linears = [layer for layer in found if isinstance(layer, Linear)]
    if not linears:
        return PrunedLayers(rows, None)
    expect_finite_weights(graph, linears)
    stages, placement = schedule(graph, linears), placement or place_on(graph, [CPU])
    streams = _start_streams(graph, parts, stages, size, placement, settings, scratch)
    sparsify = _make_sparsify(settings, placement, held_back=held_back)
    done = _DoneLayers(graph, linears, weights, records, placement.device)
    work = _choose_work(team, done, stages, linears, streams, sparsify, settings, placement.devices)
    costs = {BATCHES: float(len(stages) * len(streams.batches)), LAYERS: sum(map(_estimate_cost, linears))}
    with progress.stage("calibrate and prune", sum(costs.values()), costs) as tick:
        for stage in stages:
            seen = _observe_stage(stage, work, weights, done, tick)
            _solve_stage(stage, seen, sparsify, work, done, tick)
        done.tell_known(tick)
    rows = [done.rows[layer.name] if isinstance(layer, Linear) else row for row, layer in zip(rows, found, strict=True)]
    executions = Executions(work.executions, streams.one_pass, len(stages))
    return PrunedLayers(rows, executions, done.masks, placement.list_host_work(stages))


def _start_streams(  # noqa: PLR0917 - in the order in which they are looked at
    graph: TracedGraph,
    parts: Parts,
    stages: Sequence[Stage],
    size: int,
    placement: StagePlacement,
    settings: Settings,
    scratch: Path,
) -> Streams:
    """Joins the samples into batches, and starts both streams with them."""
    spill = find_spill(stages, settings, 2 if parts.choice else 1, scratch, placement.moves_to)
    sources, size = (("fit", parts.fit), ("choice", parts.choice)), placement.shrink(size)
    batches = [batch for part, samples in sources for batch in make_batches(samples, graph.inputs, part, size)]
    return Streams(placement.compiler, batches, spill, placement.moves_to)


def _choose_work(  # noqa: PLR0917 - what both kinds of work need
    team: Team | None,
    done: "_DoneLayers",
    stages: Sequence[Stage],
    linears: Sequence[Linear],
    streams: Streams,
    sparsify: Sparsify,
    settings: Settings,
    devices: Sequence[torch.device],
) -> StageWork:
    """Chooses who observes and solves: workers where there are some, else this process, with one device or several."""
    calibrate = Calibrate(settings.method in AIMS_AT_DENSE_OUTPUT, find_widest(settings.method))
    if team is None and len(devices) > 1:
        return GpuWork(streams, calibrate, sparsify, done.graph.weight, devices)
    if team is None:
        return OwnWork(streams, calibrate, sparsify, done.read_weight)
    return SpreadWork(team, done.graph, stages, linears, streams, calibrate, sparsify, settings)


def _make_sparsify(settings: Settings, placement: StagePlacement, *, held_back: bool) -> Sparsify:
    method, halvings = settings.layer_method, placement.halvings
    return Sparsify(method, settings.effort, settings.damping, settings.blend, held_back, halvings)


class _DoneLayers:
    """The layers that are done, by this run or by an earlier one."""

    def __init__(
        self,
        graph: TracedGraph,
        linears: Sequence[Linear],
        weights: MutableMapping[str, Array],
        records: LayerRecords,
        device: torch.device,
    ) -> None:
        """Reads what is recorded; no layer is done yet.

        Args:
            graph: The dense model.
            linears: Its layers that can be pruned.
            weights: Takes the solved weights by name, as they are stored.
            records: Takes every layer that is solved.
            device: Where layers are solved.
        """
        self.graph, self._device = graph, device
        self.rows: dict[str, LayerReport] = {}
        self.masks: dict[str, Thumbnail] = {}
        self.known = records.read(linears)
        self._weights, self._records = weights, records
        self._places = {linear.name: place for place, linear in enumerate(linears)}

    def read_weight(self, linear: Linear) -> Tensor:
        """Reads the dense weight of a layer to where it is solved."""
        return self.graph.weight(linear).to(self._device)

    def show(self, tick: Steps, linear: Linear) -> None:
        """Advances the progress by a layer that is being taken."""
        tick.place(f"layer {len(self.rows) + 1} of {len(self._places)}")
        tick(LAYERS, _estimate_cost(linear))

    def tell_known(self, tick: Steps) -> None:
        """Tells how many layers an earlier run has solved, if there are some."""
        if self.known:
            tick.tell(f"{len(self.known)} of {len(self._places)} layers were solved before")

    def take_known(self, linear: Linear) -> None:
        """Takes a layer that an earlier run has solved."""
        record = self.known[linear.name]
        self.rows[linear.name] = record.row
        if record.mask is not None and record.read is not None:
            self.masks[linear.name], self._weights[linear.weight] = record.mask, record.read()

    def leave_dense(self, linear: Linear, why: str) -> None:
        """Notes a layer that no data reach."""
        row = describe_layer(skip_unreached(linear, why), self.graph.parameters)
        self.rows[linear.name] = row
        self._records.write(self._places[linear.name], row)

    def take_solved(self, linear: Linear, solved: SolvedLayer) -> None:
        """Takes a layer that is solved now, and records it; its weight comes back from its device once."""
        row = _describe_solution(describe_layer(linear, self.graph.parameters), solved)
        matrix = solved.solution.weight.cpu()
        mask, weight = make_thumbnail((matrix != 0).numpy()), linear.to_stored(matrix)
        self.rows[linear.name], self.masks[linear.name], self._weights[linear.weight] = row, mask, weight
        self._records.write(self._places[linear.name], row, mask, weight)


def _observe_stage(
    stage: Stage, work: StageWork, weights: Mapping[str, Array], done: _DoneLayers, tick: Steps
) -> dict[str, Observation]:
    """Observes the inputs of a stage's layers; a stage whose layers are all known is left behind."""
    return_free_memory()
    observe = partial(tick, BATCHES)
    if all(linear.name in done.known for linear, _ in stage.observed):
        work.pass_by(stage, weights, observe)
        return {}
    return work.observe(stage, weights, observe)


def _solve_stage(  # noqa: PLR0917 - what a stage needs
    stage: Stage, seen: dict[str, Observation], sparsify: Sparsify, work: StageWork, done: _DoneLayers, tick: Steps
) -> None:
    """Solves the layers of a stage that are not known, and takes those that are."""
    return_free_memory()  # of the stage's sessions, before the solver makes its matrices
    by_name = {}
    for linear in stage.linears:
        if linear.name in done.known:
            done.show(tick, linear)
            done.take_known(linear)
            seen.pop(linear.name, None)
        elif why := _why_unreached(seen[linear.name]):
            done.leave_dense(linear, why)
        else:
            by_name[linear.name] = linear
    for name in [name for name in by_name if not seen[name].fit.has_gram]:
        linear = by_name.pop(name)
        weight = done.read_weight(linear)
        solved = mask_by_norms(linear, weight, seen.pop(name), sparsify.method, held_back=sparsify.held_back)
        done.take_solved(linear, solved)
        tick()
    for solved in work.solve(by_name, seen):
        done.show(tick, by_name[solved.name])
        tick.tell(f"{solved.name}: error {solved.solution.relative_error:.3g}")
        done.take_solved(by_name[solved.name], solved)


def _estimate_cost(linear: Linear) -> float:
    """What solving a layer costs beside other layers: products with its Gram matrix, and the inverses of that."""
    return linear.n * linear.k**2 + linear.k**3


def draw_masks(linears: Sequence[Linear], weights: Mapping[str, Array]) -> dict[str, Thumbnail]:
    """Draws the corner of the mask of every layer whose weight is here, by name of the layer."""
    return {
        linear.name: make_thumbnail(linear.find_surviving(weights[linear.weight]))
        for linear in linears
        if linear.weight in weights
    }


def _why_unreached(seen: Observation) -> str:
    if seen.fit.tokens == 0:
        return "no token came to it"
    return "its input was always zero" if float(seen.fit.dense.sum()) == 0 else ""


def expect_finite_weights(graph: TracedGraph, linears: Sequence[Linear]) -> None:
    """Refuses weights that hold NaN or Inf.

    Raises:
        InputError: One does; the message names the first of them and its layer.
    """
    for linear in linears:
        stored = graph.stored(linear.weight)
        if not is_finite(stored if linear.grid is None else linear.grid.to_floats(stored)):
            raise InputError(
                f"weight {linear.weight} of layer {linear.name} holds NaN or Inf. Expected finite weights: repair the "
                f"model, or leave the layer dense with --exclude {linear.name!r}."
            )


def describe_layer(layer: Linear | Skipped, parameters: int) -> LayerReport:
    """Describes a layer as the report has it before it is solved.

    Args:
        layer: A layer, or what is skipped.
        parameters: Entries of all weights of the model, of which the layer's are a share.
    """
    share = layer.parameters / parameters if parameters else 0.0
    row = LayerReport(layer.name, layer.op, layer.weight, layer.k, layer.n, layer.parameters, share, "sparse")
    if isinstance(layer, Skipped):
        return replace(row, state="dense", reason=layer.sentence)
    return replace(row, notes=layer.notes)


def _describe_solution(row: LayerReport, solved: SolvedLayer) -> LayerReport:
    solution = solved.solution
    return replace(
        row,
        relative_error=None if math.isnan(solution.relative_error) else solution.relative_error,
        blend=solved.blend,
        damping=solved.damping,
        iterations=solution.iterations,
        seconds=round(solved.seconds, 4),
        status=solution.status.value,
    )
