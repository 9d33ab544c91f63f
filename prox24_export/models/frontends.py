"""Which front end reads and writes a model: the one place that asks what kind of model it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prox24_export import facts
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.results.report import FileFacts

PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}
PROGRAM = ".pt2"
CONFIG = "config.json"
KINDS = "an .onnx file, a Hugging Face directory, a .pt2 file or module:function"


class Frontend(Protocol):
    """Reads one model as a graph, and writes it again with other weights."""

    @property
    def path(self) -> Path:
        """Where the model is, or what messages call it."""

    @property
    def always_onnx(self) -> bool:
        """Whether an ONNX file is written beside what `write` writes, asked for or not."""

    def open(self) -> TracedGraph:
        """The model, traced.

        Raises:
            InputError: It is missing, unreadable or unsuitable.
        """

    def facts(self) -> FileFacts:
        """Name, size and digest of the model."""

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """Writes the model with `weights` (stored shape and dtype, by name) into `folder`; the path to open again.

        Raises:
            OSError: The folder cannot be written.
        """

    def expect_onnx(self, graph: TracedGraph) -> None:
        """Refuses, before any work, what `write_onnx` cannot write.

        Raises:
            InputError: The model is an ONNX file already, or holds what ONNX cannot express.
        """

    def write_onnx(self, graph: TracedGraph, folder: Path) -> Path:
        """Writes an opened model as `folder/model.onnx`.

        Raises:
            InputError: It cannot be exported.
        """


@dataclass(frozen=True)
class Onnx:
    """An ONNX file, run by ONNX Runtime."""

    path: Path
    always_onnx: bool = False

    def open(self) -> TracedGraph:
        """See `Frontend.open`."""
        from prox24_export.passes.front_onnx.graph import OnnxGraph  # noqa: PLC0415 - only for models of this kind

        return OnnxGraph(self.path)

    def facts(self) -> FileFacts:
        """See `Frontend.facts`."""
        return facts.file_facts(self.path, self.path)

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """See `Frontend.write`; a byte copy where no weight changes."""
        from prox24_export.passes.front_onnx.graph import OnnxGraph  # noqa: PLC0415
        from prox24_export.passes.front_onnx.rewrite_weights import RewriteWeights  # noqa: PLC0415

        if not isinstance(graph, OnnxGraph):
            raise TypeError(f"graph must be an OnnxGraph. Got {type(graph).__name__}.")
        return RewriteWeights().call(graph=graph, weights=weights, folder=folder).path

    def expect_onnx(self, graph: TracedGraph) -> None:
        """See `Frontend.expect_onnx`."""
        self.write_onnx(graph, Path())

    def write_onnx(self, graph: TracedGraph, folder: Path) -> Path:  # noqa: ARG002 - as the protocol has it
        """See `Frontend.write_onnx`."""
        raise InputError(f"--onnx is for models that are not ONNX files, and {self.path} is one. Leave it out.")


def of(model: Any, example: Any = None) -> Frontend:
    """The front end of a model.

    Args:
        model: A path, `module:function`, or a torch module.
        example: Inputs to trace a module with: a tensor, a tuple of them, or a dictionary by argument.

    Raises:
        InputError: It is a pickle, a directory that holds no model, or a module without example inputs.
    """
    if not isinstance(model, (str, Path)):
        return _of_module(model, example)
    path = Path(model)
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run any code when it is read. Expected {KINDS}: save the model with "
            "save_pretrained (safetensors) or torch.export.save, or export it to ONNX."
        )
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise InputError(f"no such model: the directory {path} holds no {CONFIG}. Expected {KINDS}.")
        from prox24_export.models.transformers_directory import TransformersDirectory  # noqa: PLC0415 - an extra

        return TransformersDirectory(path)
    if path.suffix.lower() == PROGRAM:
        from prox24_export.models import torch_program  # noqa: PLC0415 - only for models of this kind

        return torch_program.of_file(path)
    if ":" in str(model) and not path.exists() and path.suffix.lower() != ".onnx":
        from prox24_export.models import torch_program  # noqa: PLC0415

        return torch_program.of_function(str(model))
    return Onnx(path)


def _of_module(module: Any, example: Any) -> Frontend:
    from torch import nn  # noqa: PLC0415 - only for models of this kind

    from prox24_export.models import torch_program  # noqa: PLC0415

    if not isinstance(module, nn.Module):
        raise InputError(f"the model is a {type(module).__name__}. Expected a torch module, or the path of {KINDS}.")
    if example is None:
        raise InputError("a torch module is traced on its first calibration batch. Give batches of inputs.")
    return torch_program.of_module(module, example)
