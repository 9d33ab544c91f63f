"""Before any work: the model opened, its layers found, samples in their parts, everything checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from prox24_export.data.first_batch import outline_first_batch, peek_first_batch
from prox24_export.data.samples import Parts, Source
from prox24_export.engines.choice import EngineChoice, EngineRequest, choose_engine
from prox24_export.errors import InputError
from prox24_export.models.find_frontend import find_frontend, is_traced_on_samples
from prox24_export.models.frontend import Frontend
from prox24_export.models.onnx import OnnxFile
from prox24_export.output.destination import Destination
from prox24_export.output.target import expect_outside
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.protocol import Linear, Skipped, TracedGraph
from prox24_export.results import reader
from prox24_export.results.report import DataFacts, Report
from prox24_export.settings import Settings
from prox24_export.stages.dense_outputs import check_calibration
from prox24_export.stages.device import CPU, choose_devices
from prox24_export.stages.device_kernels import find_usable_device
from prox24_export.stages.device_memory import expect_room_for_matrices
from prox24_export.stages.memory import expect_memory, expect_memory_to_convert
from prox24_export.stages.open_model import OpenedModel, open_model
from prox24_export.stages.run import Run
from prox24_export.stages.samples import check_gates, collect_samples, find_batch_size
from prox24_export.stages.work.workers import MachineWorkers

ModelSource = str | Path | nn.Module


@dataclass(frozen=True)
class Job:
    """Everything that is known of a run before its work begins.

    Attributes:
        opened: The dense model, and what it was read from.
        settings: Every option of the run.
        target: The output folder.
        found: The linear layers of the model that can be pruned, and those that stay dense with their reason.
        parts: The samples, in the three parts that never mix.
        facts: Which samples are used for what.
        size: How many samples are joined in one call of the model.
        choice: The engine that measures at the end.
        devices: Where the run computes: the first one does all that is not solving layers.
        baseline: An earlier run, against which nothing may regress; None where there is none.
        model_file: The ONNX file that is written beside the output folder; None where everything is in the folder.
        workers: Who calibrates and solves; None for this process alone.
    """

    opened: OpenedModel
    settings: Settings
    target: Path
    found: Sequence[Linear | Skipped]
    parts: Parts
    facts: DataFacts | None
    size: int
    choice: EngineChoice
    devices: Sequence[torch.device] = (CPU,)
    baseline: Report | None = None
    model_file: Path | None = None
    workers: MachineWorkers | None = None

    @property
    def frontend(self) -> Frontend:
        """Reads and writes the model."""
        return self.opened.frontend

    @property
    def graph(self) -> TracedGraph:
        """The dense model."""
        return self.opened.graph

    @property
    def linears(self) -> list[Linear]:
        """Layers that can be pruned."""
        return [layer for layer in self.found if isinstance(layer, Linear)]

    @property
    def device(self) -> torch.device:
        """Where the run computes all that is not solving layers."""
        return self.devices[0]

    @property
    def wants_onnx(self) -> bool:
        """Whether an ONNX file is written beside the model."""
        return _wants_onnx(self.frontend, self.settings, self.model_file)


@dataclass(frozen=True)
class NamedModel:
    """A model of which nothing is read yet.

    Attributes:
        frontend: Reads and writes it.
        calibration: The source of calibration samples, which still yields its first batch.
        target: The output folder.
        model_file: The ONNX file that is written beside the output folder; None where everything is in the folder.
    """

    frontend: Frontend
    calibration: Source | None
    target: Path
    model_file: Path | None = None


def name_model(model: ModelSource, calibration: Source | None, out: str | Path | None) -> NamedModel:
    """Finds out what kind of model it is, and where its output goes.

    Raises:
        InputError: It is no model, or a module without a first batch to trace it on; or it is a directory, and the
            first batch cannot be read.
    """
    if is_traced_on_samples(model):
        calibration, example = outline_first_batch(calibration, "--calibration")
    else:
        calibration, example = peek_first_batch(calibration)
    frontend = find_frontend(model, example)
    goal = Destination.read(out if out is not None else _default_out(frontend.path))
    if isinstance(frontend, OnnxFile) and goal.model is not None:
        frontend = replace(frontend, written_name=goal.model.name)
    return NamedModel(frontend, calibration, goal.folder, goal.model)


def _wants_onnx(frontend: Frontend, settings: Settings, model_file: Path | None) -> bool:
    """Whether an ONNX file is written beside what the front end writes."""
    return settings.onnx or frontend.always_onnx or (model_file is not None and not isinstance(frontend, OnnxFile))


def prepare(named: NamedModel, evaluation: Source | None, settings: Settings, run: Run) -> Job:
    """Opens the model and the samples, and checks everything; the arguments are those of `pipeline.export`.

    Raises:
        InputError: Model, data or options are unsuitable.
        DeviceMemoryError: The Gram matrices of a stage are larger than the GPU.
        UnavailableError: The device or the engine that was asked for cannot be had here.
    """
    frontend, calibration = named.frontend, named.calibration
    devices = choose_devices(find_usable_device(settings.device, run.warnings))
    expect_calibration(settings, calibration)
    baseline = None if settings.baseline is None else reader.load_report(Path(settings.baseline))
    wants_onnx = _wants_onnx(frontend, settings, named.model_file)
    request = EngineRequest(settings.engine, settings.precision, settings.min_speedup)
    choice = choose_engine(request, has_onnx=isinstance(frontend, OnnxFile) or wants_onnx)
    with run.timed("load"):
        opened = open_model(frontend)
        graph = opened.graph
        expect_outside(named.target, opened.states, named.model_file)
        if wants_onnx:
            frontend.expect_onnx(graph)
        graph.runner()  # a model that cannot be run is refused before anything else
        found = FindLinears(settings.include, settings.exclude).call(graph=graph).layers
        linears = [layer for layer in found if isinstance(layer, Linear)]
        needed = bool(linears)
    with run.timed("data"):
        parts, facts_of_data = collect_samples(graph, calibration, evaluation, settings, needed=needed)
        expect_memory(graph, linears, settings, 2 if parts.choice else 1)
        if settings.ray is None:  # whose workers have the matrices, and use processors
            expect_room_for_matrices(graph, linears, settings, 2 if parts.choice else 1, devices[0])
        expect_memory_to_convert(graph, settings)
        is_random = facts_of_data is not None and facts_of_data.is_random
        size = find_batch_size(graph, parts, is_random=is_random)
        check_calibration(graph, linears, parts, facts_of_data, size=size)
        if needed:
            check_gates(graph, parts, settings, size)
    made = named.target, found, parts, facts_of_data, size, choice, devices, baseline, named.model_file
    return Job(opened, settings, *made)


def expect_calibration(settings: Settings, calibration: Source | None) -> None:
    """Expects calibration samples where INT8 scales are to be taken from them.

    Raises:
        InputError: There are none.
    """
    if settings.precision == "int8" and calibration is None:
        raise InputError(
            "--precision int8 takes scales from calibration samples, and there are none. Give a few hundred unlabelled "
            "ones with --calibration, or use --precision fp16."
        )


def _default_out(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.stem
    return f"{name.replace(':', '-')}-2to4"
