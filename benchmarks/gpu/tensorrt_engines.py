"""Engines by TensorRT on a CUDA GPU: dense against sparse latency over batch sizes, outputs verified.

    python -m benchmarks.gpu.tensorrt_engines [--write [FOLDER]] [--limit SECONDS]

Needs `pip install 'prox24-export[tensorrt]'`; where TensorRT cannot be imported, every group says so and the exit code
is 1. Exits 2 where there is no GPU. One engine of each kind is built for all batch sizes of a model.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # started as a file: the root of the repository takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.gpu.engine_models import Subject, list_subjects, prune_by_magnitude, random_feeds
from benchmarks.gpu.engine_tables import write_section
from benchmarks.gpu.engines import watching_if_cuda
from benchmarks.gpu.meter import Meter
from benchmarks.gpu.part import Group, Measured, Part, run_part
from prox24_export.engines.diagnosis.pruned_layers import list_pruned_layers
from prox24_export.engines.estimate import estimate
from prox24_export.engines.tensorrt import measure as tensorrt_bench
from prox24_export.engines.timing.gpu_watch import Watch
from prox24_export.engines.timing.latency import Procedure
from prox24_export.passes.emit_engine import tensorrt
from prox24_export.passes.emit_engine.build import EmitEngines
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.emit_onnx import EmitOnnx
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.results.engine import EngineReport
from prox24_export.stages.engines import make_profile
from prox24_export.stages.lower import lower
from prox24_export.stages.prune import describe_layer

BUILDING = 90.0  # seconds; three engines


@dataclass(frozen=True)
class Case:
    """One model with everything that TensorRT needs to be timed on it."""

    dense: TracedGraph
    sparse: TracedGraph
    batches: Sequence[Feeds]
    precision: Literal["fp16", "bf16"]
    folder: Path
    procedure: Procedure
    watch: Watch | None


def list_groups(meter: Meter) -> list[Group]:
    """What is measured on a device: each model at its two most telling batch sizes."""
    return [_group(subject, meter.device) for subject in list_subjects()]


def measure(subject: Subject, device: torch.device) -> Measured:
    """Builds and times one model's engines.

    Raises:
        Prox24Error: TensorRT is not here, or it cannot build or run this model.
    """
    tensorrt.require_tensorrt()
    with tempfile.TemporaryDirectory() as work, watching_if_cuda(device) as watch:
        dense = subject.open()
        sparse, layers = prune_by_magnitude(dense, Path(work))
        batches = [random_feeds(dense, subject.shape, size) for size in subject.batches[:2]]
        expected = estimate(
            sparse, FindLinears().call(graph=sparse).layers, {layer.name for layer in layers}, batches[0]
        )
        report = run_engines(Case(dense, sparse, batches, "fp16", Path(work), Procedure(), watch))
    row = {"model": subject.name, "engine": asdict(report), "estimate": asdict(expected)}
    return Measured([row], write_section(report, expected))


def run_engines(case: Case) -> EngineReport:
    """Three engines for all batches, built, diagnosed and timed."""
    tensorrt.require_tensorrt()
    dense = OnnxGraph(_as_onnx(case.dense, case.folder / "dense" / "model.onnx"))
    sparse = OnnxGraph(_as_onnx(case.sparse, case.folder / "pruned" / "model.onnx"))
    batches = [{dense.inputs[0].name: next(iter(batch.values()))} for batch in case.batches]
    found = FindLinears().call(graph=sparse).linears
    rows = [describe_layer(layer, sparse.parameters) for layer in found]
    names = [layer.weight for layer in found]
    files = lower(dense.path, sparse.path, names, case.folder, precision=case.precision, feeds=batches[:1])
    layers = list_pruned_layers(rows, files.layers, case.precision)
    settings = EmitEngines(profile=make_profile(dense, {}, batches), precision=case.precision)
    pair = tensorrt_bench.ModelPair(files.dense, files.sparse, (dense, sparse), layers)
    return tensorrt_bench.bench(pair, batches, case.folder, settings, procedure=case.procedure, watch=case.watch)


def _group(subject: Subject, device: torch.device) -> Group:
    return Group(subject.name, BUILDING, lambda: measure(subject, device))


def _as_onnx(graph: TracedGraph, file: Path) -> Path:
    """The model's ONNX file, written where it has none."""
    if isinstance(graph, OnnxGraph):
        return graph.path
    if not isinstance(graph, FxGraph):
        raise TypeError(f"expected a graph of either front end. Got {type(graph).__name__}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    EmitOnnx().call(program=graph.program, file=file)
    return file


PART = Part("gpu_tensorrt", "Dense against sparse models by TensorRT on a CUDA GPU.", list_groups)

if __name__ == "__main__":
    sys.exit(run_part(PART))
