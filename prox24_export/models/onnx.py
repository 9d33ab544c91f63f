"""ONNX files, which ONNX Runtime runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.facts.files import describe_files
from prox24_export.models.frontend import ONNX_MODEL
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.results.report import FileFacts


@dataclass(frozen=True)
class OnnxFile:
    """The front end of an ONNX file; see `Frontend`.

    Attributes:
        path: The file.
        always_onnx: False, since what `write` writes is an ONNX file already.
        written_name: The name of the file that `write` writes.
    """

    path: Path
    always_onnx: bool = False
    written_name: str = ONNX_MODEL

    def open(self) -> TracedGraph:
        """See `Frontend.open`."""
        from prox24_export.passes.front_onnx.graph import OnnxGraph  # noqa: PLC0415 - only for models of this kind

        return OnnxGraph(self.path)

    def files(self, graph: TracedGraph | None) -> Mapping[str, Path]:
        """Lists the file, and those of its external data by their locations. See `Frontend.files`."""
        from prox24_export.passes.front_onnx.graph import expect_onnx_graph  # noqa: PLC0415

        beside = [] if graph is None else expect_onnx_graph(graph).external_files
        return {"": self.path} | {file.relative_to(self.path.parent).as_posix(): file for file in beside}

    def facts(self, graph: TracedGraph) -> FileFacts:
        """See `Frontend.facts`."""
        return describe_files(self.files(graph), self.path)

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """Writes the file with other weights; it is a copy where no weight changes. See `Frontend.write`."""
        from prox24_export.passes.front_onnx.graph import expect_onnx_graph  # noqa: PLC0415
        from prox24_export.passes.front_onnx.rewrite_weights import RewriteWeights  # noqa: PLC0415

        rewrite = RewriteWeights(name=self.written_name)
        return rewrite.call(graph=expect_onnx_graph(graph), weights=weights, folder=folder).path

    def find_written(self, path: Path) -> "OnnxFile":
        """See `Frontend.find_written`."""
        return OnnxFile(path)

    def expect_onnx(self, graph: TracedGraph) -> None:
        """Refuses every graph, as `write_onnx` does."""
        self.write_onnx(graph, Path())

    def write_onnx(self, graph: TracedGraph, folder: Path, name: str = ONNX_MODEL) -> Path:  # noqa: ARG002 - as the protocol has it
        """Refuses to write an ONNX file beside an ONNX file.

        Raises:
            InputError: Always.
        """
        raise InputError(f"--onnx is for models that are not ONNX files, and {self.path} is one. Leave it out.")
