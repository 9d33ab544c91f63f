"""The solved model on disk: written, read back, and verified."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prox24_export.data.batches import join_samples
from prox24_export.errors import Prox24Error
from prox24_export.models.find_frontend import find_frontend
from prox24_export.models.frontend import ONNX_MODEL
from prox24_export.models.onnx import OnnxFile
from prox24_export.output.beside import find_model_folder
from prox24_export.output.destination import find_data
from prox24_export.passes.front_torch.emit_onnx import verify_onnx
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.verify_pattern import VerifyPattern
from prox24_export.results.report import FileFacts
from prox24_export.stages.prepare import Job
from prox24_export.stages.run import Run
from prox24_export.stages.solve import SolvedModel
from prox24_export.stages.weight_store import pick_weights


@dataclass(frozen=True)
class WrittenModel:
    """The sparse model as it was read back.

    Attributes:
        path: Where it was written.
        facts: Name, size and digest of what was read back, under the name that it will have.
        sparse: The graph of it.
        folder: The output folder, as long as it is not in place.
        onnx: The ONNX file; where the model is none, it may be missing.
    """

    path: Path
    facts: FileFacts
    sparse: TracedGraph
    folder: Path
    onnx: Path

    def onnx_files(self, job: Job, scratch: Path) -> tuple[Path | None, Path | None]:
        """Dense and sparse model as ONNX files, as far as there are any.

        Args:
            job: What was run.
            scratch: Folder for the dense one of a torch model, which is written only where an engine will read it.

        Raises:
            Prox24Error: The ONNX file of the sparse model could not be written.
        """
        if isinstance(job.frontend, OnnxFile):
            return job.frontend.path, self.path
        needed = job.choice.engine in {"tensorrt", "onnxruntime"} or job.choice.writes_files
        if not job.wants_onnx or not needed:
            return None, None
        if not self.onnx.is_file():
            raise Prox24Error(f"{self.onnx.name} could not be written, and engines are made from it")
        return job.frontend.write_onnx(job.graph, scratch), self.onnx


def write_model(job: Job, solved: SolvedModel, moved: Mapping[str, Array], folder: Path, run: Run) -> WrittenModel:
    """Writes the solved weights into a copy of the model, and verifies what was written.

    An ONNX file beside it that cannot be written, or computes something else, is left out and named as a fault.

    Args:
        job: What was run.
        solved: Its solved weights.
        moved: Stored tensors whose channels have another order, by name; solved weights take the place of theirs.
        folder: The output folder, as long as it is not in place.
        run: Takes the time.

    Raises:
        PatternError: A written weight is not 2:4: a fault of this program.
        OSError: The folder cannot be written.
    """
    linears, is_onnx = solved.layers_of(job), isinstance(job.frontend, OnnxFile)
    model_folder = find_model_folder(folder, job.model_file)
    with run.timed("save"):
        stores = dict.fromkeys(moved, moved) | dict.fromkeys(solved.weights, solved.weights)
        path = job.frontend.write(job.graph, pick_weights(stores), model_folder if is_onnx else folder)
    with run.timed("verify"):
        frontend = job.frontend.find_written(path)
        sparse = frontend.open()
        place = job.model_file if is_onnx and job.model_file is not None else job.target / path.name
        found = replace(frontend.facts(sparse), path=str(place))
        VerifyPattern().call(graph=sparse, linears=linears)
    file = path if is_onnx else model_folder / (ONNX_MODEL if job.model_file is None else job.model_file.name)
    if job.wants_onnx:
        run.attempt(file.name, lambda: _write_onnx(job, sparse, linears, file, run), None)
    return WrittenModel(path, found, sparse, folder, file)


def _write_onnx(job: Job, sparse: TracedGraph, linears: Sequence[Linear], file: Path, run: Run) -> None:
    """Writes the ONNX file beside the model and compares it with that; on any failure nothing is left of it."""
    feeds, _ = next(join_samples(job.parts.report or job.parts.fit, job.graph.inputs, 1), (None, None))
    try:
        with run.timed("verify"):
            written = job.frontend.write_onnx(sparse, file.parent, file.name)
            verify_onnx(find_frontend(written).open(), sparse, linears, feeds)
    except BaseException:
        for part in (file, find_data(file)):
            part.unlink(missing_ok=True)
        raise
