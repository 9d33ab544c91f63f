"""What a front end does: it reads one kind of model as a graph, and writes it again with other weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.results.report import FileFacts

ONNX_MODEL = "model.onnx"
"""The name of an ONNX file to which the user gave none."""
CONFIG = "config.json"
"""The name of the file that makes a directory a model of Hugging Face's transformers."""


class Frontend(Protocol):
    """Reads one model as a graph, and writes it again with other weights."""

    @property
    def path(self) -> Path:
        """Where the model is, or what messages call it."""

    @property
    def always_onnx(self) -> bool:
        """Whether an ONNX file is written beside what `write` writes, even when nobody asked for it."""

    def open(self) -> TracedGraph:
        """Reads and traces the model.

        Raises:
            InputError: The model is missing, unreadable or unsuitable.
        """

    def files(self, graph: TracedGraph | None) -> Mapping[str, Path]:
        """Lists the files that the model is read from, by the names that count in its digest.

        Args:
            graph: The model, as `open` returned it; None before that, when only what its path says is known.
        """

    def facts(self, graph: TracedGraph) -> FileFacts:
        """Returns the name, size and digest of the model: of its files, or of its tensors where it has none."""

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """Writes the model into `folder`, with `weights` in place of its own.

        Args:
            graph: The model, as `open` returned it.
            weights: The new weights by name, in the stored shape and dtype; the others stay as they are.
            folder: An existing folder.

        Returns:
            The path under which the written model can be opened again.

        Raises:
            OSError: The folder cannot be written.
        """

    def find_written(self, path: Path) -> "Frontend":
        """Finds the front end that opens the model which `write` has written at `path`, as this one opens its own."""

    def expect_onnx(self, graph: TracedGraph) -> None:
        """Refuses, before any work, a model that `write_onnx` cannot write.

        Raises:
            InputError: The model is an ONNX file already, or holds what ONNX cannot express.
        """

    def write_onnx(self, graph: TracedGraph, folder: Path, name: str = ONNX_MODEL) -> Path:
        """Writes an opened model as an ONNX file in `folder` and returns the path of that file.

        Args:
            graph: The model, as `open` returned it.
            folder: An existing folder.
            name: The name of the file; external data go to `NAME.data`.

        Raises:
            InputError: The model cannot be exported.
        """
