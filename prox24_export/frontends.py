"""Which front end reads and writes a model: the one place that asks what kind of model it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from prox24_export.errors import InputError
from prox24_export.passes.graph import Array, TracedGraph

PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}
CONFIG = "config.json"
ONNX_ALREADY = "--onnx is for models that are not ONNX files, and {path} is one. Leave it out."


class Frontend(Protocol):
    """Reads a model as a graph, and writes it again with other weights."""

    def open(self, path: Path) -> TracedGraph:
        """The model at `path`, traced.

        Raises:
            InputError: It is missing, unreadable or unsuitable.
        """

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """Writes the model with `weights` (stored shape and dtype, by name) into `folder`; the path to open again.

        Raises:
            OSError: The folder cannot be written.
        """

    def write_onnx(self, graph: TracedGraph, folder: Path) -> Path:
        """Writes an opened model as `folder/model.onnx`.

        Raises:
            InputError: It is an ONNX file already, or cannot be exported.
        """


class Onnx:
    """ONNX files, run by ONNX Runtime."""

    def open(self, path: Path) -> TracedGraph:
        """See `Frontend.open`."""
        from prox24_export.passes.onnx_graph import OnnxGraph  # noqa: PLC0415 - only for models of this kind

        return OnnxGraph(path)

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """See `Frontend.write`; a byte copy where no weight changes."""
        from prox24_export.passes.onnx_graph import OnnxGraph  # noqa: PLC0415
        from prox24_export.passes.rewrite_weights import RewriteWeights, copy_unchanged  # noqa: PLC0415

        if not isinstance(graph, OnnxGraph):
            raise TypeError(f"graph must be an OnnxGraph. Got {type(graph).__name__}.")
        return RewriteWeights().call(graph, weights, folder) if weights else copy_unchanged(graph, folder)

    def write_onnx(self, graph: TracedGraph, folder: Path) -> Path:  # noqa: ARG002 - as the protocol has it
        """See `Frontend.write_onnx`."""
        raise InputError(ONNX_ALREADY.format(path=graph.path))


def of(path: Path) -> Frontend:
    """The front end for what stands at `path`.

    Raises:
        InputError: It is a pickle, or a directory that holds no model.
    """
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run any code when it is read. Expected an .onnx file or a Hugging Face "
            "directory with safetensors: save the model with save_pretrained, or export it to ONNX."
        )
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise InputError(
                f"no such model: the directory {path} holds no {CONFIG}. Expected an .onnx file or a Hugging Face "
                "model directory."
            )
        from prox24_export.transformers_directory import TransformersDirectory  # noqa: PLC0415 - an extra

        return TransformersDirectory()
    return Onnx()
