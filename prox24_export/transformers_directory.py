"""Hugging Face model directories: traced with `torch.export`, written back as `from_pretrained` reads them."""

import inspect
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prox24_export.errors import InputError, first_line
from prox24_export.passes.emit_onnx import emit_onnx
from prox24_export.passes.fx_graph import FxGraph, as_tensor
from prox24_export.passes.graph import Array, TracedGraph

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL, ONNX_MODEL = "model", "model.onnx"
CONFIG = "config.json"
EXAMPLE_BATCH, EXAMPLE_TOKENS = 2, 12
WEIGHTS = "safetensors safetensors.index.json bin bin.index.json pt pth ckpt pkl h5 msgpack gguf onnx"


class TransformersDirectory:
    """The front end; see `frontends.Frontend`."""

    def open(self, path: Path) -> TracedGraph:
        """Loads and traces; nothing is downloaded.

        Raises:
            InputError: transformers is not installed, the directory holds no safetensors, or the model cannot be loaded
                or traced.
        """
        module = load(path)
        predicts = type(module).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        return FxGraph(path, trace(module, path), predicts)

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """`folder/model`: the new weights as safetensors, every other file of the directory itself as it was."""
        out = folder / MODEL
        module = load(graph.path)
        tensors = module.state_dict()
        with torch.no_grad():
            for name, array in weights.items():
                tensors[name].copy_(as_tensor(array))
        module.save_pretrained(out)
        kept = {path for ending in WEIGHTS.split() for path in graph.path.glob(f"*.{ending}")}
        for source in sorted(graph.path.iterdir()):
            if source.is_file() and source not in kept:
                shutil.copyfile(source, out / source.name)
        return out

    def write_onnx(self, graph: TracedGraph, folder: Path) -> Path:
        """See `Frontend.write_onnx`."""
        if not isinstance(graph, FxGraph):
            raise TypeError(f"graph must be an FxGraph. Got {type(graph).__name__}.")
        file = folder / ONNX_MODEL
        emit_onnx(graph.program, file)
        return file


def load(path: Path) -> "PreTrainedModel":
    """The module, in evaluation mode, in the type that its configuration names, or else its file has.

    Raises:
        InputError: See `TransformersDirectory.open`.
    """
    try:
        import transformers  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError(
            f"{path} is a Hugging Face directory, and transformers is not installed. "
            "Install it with: pip install 'prox24-export[transformers]'."
        ) from error
    if not list(path.glob("*.safetensors")):
        raise InputError(
            f"{path} holds no .safetensors file. Save the model with save_pretrained; pickles are not read."
        )
    try:
        named = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("architectures") or ["none"]
    except (ValueError, AttributeError, OSError) as error:
        raise InputError(f"{path / CONFIG} cannot be read: {first_line(error)}") from error
    architecture = getattr(transformers, named[0], None)
    if architecture is None:
        raise InputError(f"{path / CONFIG} names the architecture {named[0]}, which transformers does not have.")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, told = architecture.from_pretrained(
            path, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True
        )
    except Exception as error:
        raise InputError(f"transformers cannot load {path}: {first_line(error)}") from error
    if told["missing_keys"]:
        missing = ", ".join(sorted(told["missing_keys"])[:5])
        raise InputError(f"{path} lacks weights that {named[0]} has: {missing}. Expected a complete checkpoint.")
    loaded: PreTrainedModel = module.eval()
    return loaded


def trace(module: "PreTrainedModel", path: Path) -> torch.export.ExportedProgram:
    """The module's forward pass with the cache off, batch and sequence of any size where the model allows it.

    Raises:
        InputError: `torch.export` cannot trace it.
    """
    try:
        examples = example_inputs(module)
    except AttributeError as error:
        raise InputError(f"no example input can be made for {path}: {first_line(error)}.") from error
    # Batch; and sequence, of token ids. The sizes of images and of sound are the model's.
    dynamic: dict[str, Any] = {
        name: dict.fromkeys(range(1 if value.is_floating_point() else value.ndim), torch.export.Dim.AUTO)
        for name, value in examples.items()
    }
    cached = "use_cache" in inspect.signature(module.forward).parameters
    without = {"use_cache": False} if cached else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own tracing
            program = torch.export.export(
                module, (), examples | without, dynamic_shapes=dynamic | dict.fromkeys(without), strict=False
            )
            # Nothing is decomposed, but nothing changes in place any more.
            functional: torch.export.ExportedProgram = program.run_decompositions({})
            return functional
    except Exception as error:
        raise InputError(f"torch.export cannot trace {path}: {first_line(error)}") from error


def example_inputs(module: "PreTrainedModel") -> dict[str, torch.Tensor]:
    """Inputs to trace with, by the model's main input."""
    config: Any = module.config
    name = module.main_input_name
    generator = torch.Generator().manual_seed(0)
    if name == "pixel_values":
        side = config.image_size
        height, width = (side, side) if isinstance(side, int) else side
        image = torch.randn(EXAMPLE_BATCH, config.num_channels, height, width, generator=generator)
        return {name: image.to(module.dtype)}
    if name == "input_features":
        frames = 2 * config.max_source_positions
        sound = torch.randn(EXAMPLE_BATCH, config.num_mel_bins, frames, generator=generator)
        return {name: sound.to(module.dtype)}
    if name != "input_ids":
        raise InputError(f"{type(module).__name__} takes {name}. Expected input_ids, pixel_values or input_features.")
    vocabulary = min(getattr(config, "vocab_size", 2), 1 << 15)
    tokens = torch.randint(0, vocabulary, (EXAMPLE_BATCH, EXAMPLE_TOKENS), generator=generator)
    inputs = {name: tokens}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens[:, : EXAMPLE_TOKENS // 2]
    return inputs
