"""Engines by torch.sparse on a CUDA GPU: dense against sparse latency over batch sizes, outputs verified.

    python -m benchmarks.gpu.engines [--write [FOLDER]] [--limit SECONDS]

Needs one CUDA GPU with sparse matrix instructions (since Ampere), and neither TensorRT nor ONNX Runtime: the stacks of
the shapes of BERT-base and Llama-7B are torch modules. KWT-1, an ONNX model, is timed too where `PROX24_TEST_DATA`
names a folder that has it. Exits 2 where there is no GPU. The figures are none of TensorRT's: those are
measured by `tensorrt_engines.py`.
"""

import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

if not __package__:  # started as a file: the root of the repository takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gpu.engine_models import Subject, list_subjects, prune_by_magnitude, random_feeds
from benchmarks.gpu.engine_tables import write_section
from benchmarks.gpu.meter import Meter
from benchmarks.gpu.part import Group, Measured, Part, run_part
from prox24_export.engines.estimate import estimate
from prox24_export.engines.timing.gpu_state import find_current_gpu
from prox24_export.engines.timing.gpu_watch import Watch, follow_state
from prox24_export.engines.timing.latency import Procedure
from prox24_export.engines.torch_sparse import measure as torch_sparse
from prox24_export.engines.torch_sparse.measure import Backend
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.protocol import TracedGraph


@dataclass
class Engines:
    """Times models on one device.

    Attributes:
        device: Where.
        folder: Where pruned ONNX models are kept while they are timed.
        precision: `fp16` or `bf16`.
        procedure: How long and how often is measured.
        kernels: What computes sparse products; what the GPU has where None.
        prepared: Models that were opened, dense and pruned, by name.
    """

    device: torch.device
    folder: Path
    precision: str = "fp16"
    procedure: Procedure = field(default_factory=Procedure)
    kernels: Backend | None = None
    prepared: dict[str, tuple[TracedGraph, TracedGraph]] = field(default_factory=dict)

    def groups(self, subjects: Sequence[Subject]) -> list[Group]:
        """Every model at its most telling batch size, then the others."""
        first = [self._group(subject, subject.batches[0]) for subject in subjects]
        return first + [self._group(subject, size) for subject in subjects for size in subject.batches[1:]]

    def measure(self, subject: Subject, size: int) -> Measured:
        """One model at one batch size, end to end and by the shape of its products.

        Raises:
            Prox24Error: The engine cannot run here, or not this model.
        """
        dense, sparse = self._models(subject)
        feeds = random_feeds(dense, subject.shape, size)
        found = FindLinears().call(graph=sparse).layers
        expected = estimate(sparse, found, {layer.name for layer in found}, feeds)
        with watching_if_cuda(self.device) as watch:
            report = torch_sparse.bench(
                dense,
                sparse,
                [feeds],
                precision=self.precision,
                procedure=self.procedure,
                watch=watch,
                kernels=self.kernels,
                device=self.device,
            )
        row = {"model": subject.name, "batch": size, "engine": asdict(report), "estimate": asdict(expected)}
        return Measured([row], write_section(report, expected))

    def _group(self, subject: Subject, size: int) -> Group:
        return Group(f"{subject.name}, batch {size}", subject.seconds, lambda: self.measure(subject, size))

    def _models(self, subject: Subject) -> tuple[TracedGraph, TracedGraph]:
        if subject.name not in self.prepared:
            dense = subject.open()
            folder = self.folder / subject.name
            folder.mkdir()
            self.prepared[subject.name] = dense, prune_by_magnitude(dense, folder)[0]
        return self.prepared[subject.name]


@contextmanager
def watching_if_cuda(device: torch.device) -> Iterator[Watch | None]:
    """The GPU's state while it is timed; None elsewhere, and where it cannot be read, which is said."""
    if device.type != "cuda":
        yield None
        return
    with follow_state(find_current_gpu()) as (watch, note):
        if note:
            print(note, file=sys.stderr)
        yield watch


def list_groups(meter: Meter) -> list[Group]:
    """What is measured on a device."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Engines(meter.device, folder).groups(list_subjects())


PART = Part("gpu_engines", "Dense against sparse models by torch.sparse on a CUDA GPU.", list_groups)

if __name__ == "__main__":
    sys.exit(run_part(PART))
