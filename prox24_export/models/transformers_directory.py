"""Hugging Face model directories: traced with `torch.export`, written back as `from_pretrained` reads them."""

import inspect
import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prox24_export.errors import InputError, UnavailableError, describe_missing, first_line
from prox24_export.facts import machine
from prox24_export.facts.files import describe_files, list_folder
from prox24_export.models.checkpoint import INDEX, Checkpoint
from prox24_export.models.example_inputs import BATCH, make_example_inputs
from prox24_export.models.forward_arguments import list_parameters
from prox24_export.models.frontend import CONFIG, ONNX_MODEL
from prox24_export.models.invented_inputs import choose_inputs
from prox24_export.models.model_configuration import expect_no_timm, read_configuration
from prox24_export.output.lock import ENDING as LOCK
from prox24_export.passes.front_torch.emit_onnx import EmitOnnx
from prox24_export.passes.front_torch.graph import FxGraph, expect_fx_graph
from prox24_export.passes.front_torch.trace import read_shape, trace
from prox24_export.passes.graph.arrays import Array, as_tensor
from prox24_export.passes.graph.experts import replace_parts
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.process.offline import stay_offline
from prox24_export.results.report import FileFacts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL = "model"
ADAPTER = "adapter_config.json"
SAFETENSORS = ".safetensors"
MOST_TENSORS = 1 << 10  # layers that a configuration without weights may describe
OF_MODEL = {".safetensors", ".json", ".model"}  # and tokenizers
PACKED, SLACK = 8, 1 << 28  # weights in a stored byte, and entries of what is computed and not stored
WEIGHTS = "safetensors safetensors.index.json bin bin.index.json pt pth ckpt pkl h5 msgpack gguf onnx"


@dataclass(frozen=True)
class TransformersDirectory:
    """The front end of a Hugging Face directory; see `Frontend`.

    Attributes:
        path: The directory.
        example: The first batch of samples, which the model is traced with; None invents one. See
            `make_example_inputs`.
        always_onnx: False: `model.onnx` is written where `--onnx` asks for it.
    """

    path: Path
    example: Any = None
    always_onnx: bool = False

    def open(self) -> TracedGraph:
        """Loads and traces the model; nothing is downloaded.

        Raises:
            InputError: The directory holds no safetensors, or the model cannot be loaded or traced.
            UnavailableError: transformers, or a library that the model needs, is not installed, or is broken.
        """
        module, read = load_lazily(self.path)
        if read is not None:
            machine.keep_no_large_blocks()
        predicts = type(module).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        return FxGraph(self.path, trace_module(module, self.path, self.example), predicts, read)

    def files(self, graph: TracedGraph | None) -> Mapping[str, Path]:  # noqa: ARG002 - as the protocol has it
        """Lists the files that make the model: weights and configurations. See `Frontend.files`.

        Others may lie beside them and change at any time, such as the output of the command that runs.
        """
        return {name: file for name, file in list_folder(self.path).items() if Path(name).suffix in OF_MODEL}

    def facts(self, graph: TracedGraph) -> FileFacts:
        """See `Frontend.facts`."""
        return describe_files(self.files(graph), self.path)

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """Writes `folder/model`: the new weights as safetensors, and a copy of every other file of the directory.

        Folders in the directory are left out, and so is what `_is_own_file` does not take.
        """
        out = folder / MODEL
        out.mkdir()
        kept = {path for ending in WEIGHTS.split() for path in self.path.glob(f"*.{ending}")}
        if expect_fx_graph(graph).read is not None:
            Checkpoint(self.path).write(out, weights)
            kept -= {self.path / INDEX}
        else:
            module = load_whole(self.path)
            tensors = module.state_dict()
            with torch.no_grad():
                for name, tensor in replace_parts(weights, tensors, as_tensor).items():
                    tensors[name].copy_(tensor)
            module.save_pretrained(out)
        for source in sorted(self.path.iterdir()):
            if source not in kept and _is_own_file(source):
                shutil.copyfile(source, out / source.name)
        return out

    def find_written(self, path: Path) -> "TransformersDirectory":
        """Finds the front end of what `write` wrote; it is traced with the same inputs. See `Frontend.find_written`."""
        return replace(self, path=path)

    def expect_onnx(self, graph: TracedGraph) -> None:
        """See `Frontend.expect_onnx`."""
        EmitOnnx.requires(expect_fx_graph(graph).program, str(self.path))

    def write_onnx(self, graph: TracedGraph, folder: Path, name: str = ONNX_MODEL) -> Path:
        """See `Frontend.write_onnx`."""
        file = folder / name
        EmitOnnx().call(program=expect_fx_graph(graph).whole_program(), file=file)
        return file


def _is_own_file(file: Path) -> bool:
    """Whether this is a regular file that belongs to the directory.

    A link may lead to a file in the same directory, or, as in the cache of Hugging Face, to one in its `blobs`. Another
    could bring any file of the user's into the output. The configuration is known to be one by what it holds. Locks,
    such as that of an output folder beside these files, are no part of a model.
    """
    target, folder = file.resolve(), file.parent.resolve()
    own = folder in target.parents or folder.parent.parent / "blobs" == target.parent or file.name == CONFIG
    return own and target.is_file() and file.suffix != LOCK


def load_lazily(path: Path) -> "tuple[PreTrainedModel, Callable[[str], Tensor] | None]":
    """Builds the module without the values of its tensors where these can be read from the checkpoint one by one.

    That is where the checkpoint's tensors have the model's own names and types. A checkpoint that transformers converts
    while it loads (renamed, merged or cast weights) is loaded whole.

    Args:
        path: The directory.

    Returns:
        The module, and a function that reads a tensor by its name; None instead of the function where the module holds
        the values itself.

    Raises:
        InputError: See `TransformersDirectory.open`.
    """
    _expect_weights(path)
    architecture = find_architecture(path)
    checkpoint = Checkpoint(path)
    _expect_fitting(architecture, path, checkpoint)
    module = _build_without_values(architecture, path, checkpoint)
    if module is None:
        return load_whole(path), None
    return module, _make_reader(module, checkpoint)


def _make_reader(module: "PreTrainedModel", checkpoint: Checkpoint) -> "Callable[[str], Tensor]":
    """Returns a function that reads a tensor by its name; a tied weight is found by any of its names."""
    owner = {tensor.data_ptr(): name for name, tensor in module.state_dict().items() if name in checkpoint.places}
    stored = {name: owner[tensor.data_ptr()] for name, tensor in module.state_dict().items() if tensor.numel()}
    return lambda name: checkpoint.read(stored[name])


def _expect_fitting(architecture: Any, path: Path, checkpoint: Checkpoint) -> None:
    """Expects a configuration whose model is not far larger than the checkpoint, before memory is taken for it.

    Raises:
        InputError: It is, or the checkpoint cannot be read.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - an extra

    stored = sum(place.end - place.begin for place in checkpoint.places.values())
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            module = architecture._from_config(config)  # noqa: SLF001 - the one way to a module without values
    except Exception:  # noqa: BLE001 - whatever it is, loading the usual way reports it better
        return
    needed = sum(tensor.numel() for tensor in itertools.chain(module.parameters(), module.buffers()))
    if needed > PACKED * stored + SLACK:
        raise InputError(
            f"{path / CONFIG} describes a model of {needed:,} weights, and its safetensors hold {stored:,} bytes. "
            "Expected the configuration of this checkpoint."
        )


def _build_without_values(architecture: Any, path: Path, checkpoint: Checkpoint) -> "PreTrainedModel | None":
    """Builds the module with memory for its parameters that is never written; None where the checkpoint differs."""
    from transformers import AutoConfig, initialization  # noqa: PLC0415 - an extra

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        types = {place.dtype for place in checkpoint.places.values() if place.dtype.is_floating_point}
        with initialization.no_init_weights():
            build = architecture._from_config  # noqa: SLF001 - the one way to a module without values
            module: PreTrainedModel = build(config, dtype=config.dtype or min(types, key=str)).eval()
        module.tie_weights()
    except Exception:  # noqa: BLE001 - whatever it is, loading the usual way reports it better
        return None
    state = module.state_dict()
    there = {state[name].data_ptr() for name in checkpoint.places if name in state}
    same = all(
        name in state and (place.dtype, place.shape) == (state[name].dtype, tuple(state[name].shape))
        for name, place in checkpoint.places.items()
    )
    complete = all(tensor.data_ptr() in there for tensor in state.values() if tensor.numel())
    return module if same and complete else None


def _expect_weights(path: Path) -> None:
    """Expects a directory with weights.

    Raises:
        InputError: It has none, or only pickles.
    """
    if not list(path.glob(f"*{SAFETENSORS}")):
        raise InputError(
            f"{path} holds no {SAFETENSORS} file. Save the model with save_pretrained; pickles are not read."
        )


def find_architecture(path: Path) -> Any:
    """Finds the class of transformers that a directory's configuration names; weights need not be there.

    Raises:
        InputError: The configuration is unsuitable.
        UnavailableError: transformers, or a library that the architecture needs, is not installed, or is broken.
    """
    stay_offline()
    try:
        import transformers  # noqa: PLC0415 - an extra
    except Exception as error:  # a broken installation fails in many ways
        raise UnavailableError(
            f"{path} is a Hugging Face directory, and {describe_missing(error, 'transformers')}. "
            "Install it with: pip install 'prox24-export[transformers]'."
        ) from error
    if (path / ADAPTER).exists():
        raise InputError(
            f"{path} holds {ADAPTER}, of an adapter that is laid over a model. Merge it into the model with "
            "merge_and_unload of peft, and save the whole model with save_pretrained."
        )
    places = Checkpoint(path).places.values()
    largest = max((size for place in places for size in place.shape), default=0)
    named = read_configuration(path, largest, len(places) or MOST_TENSORS).get("architectures") or ["none"]
    architecture = _find_class(transformers, str(named[0] if isinstance(named, list) else named), path)
    _expect_no_timm(architecture, path)
    return architecture


def _find_class(transformers: Any, name: str, path: Path) -> Any:
    """Finds a class of models in transformers by its name."""
    try:
        architecture = getattr(transformers, name, None)  # imports the module that defines it
        needed = ", ".join(getattr(architecture, "_backends", None) or ())  # of what stands in for a class
    except ImportError as error:
        why = first_line(error.__cause__ or error).rstrip(".")
        raise UnavailableError(
            f"{path / CONFIG} names the architecture {name:.80}, which transformers cannot import: {why}. "
            "Repair or install what is named there."
        ) from error
    if needed:
        raise UnavailableError(
            f"{path / CONFIG} names the architecture {name:.80}, which needs a library that is not installed: {needed}."
        )
    if architecture is None:
        raise InputError(
            f"{path / CONFIG} names the architecture {name:.80}, which the installed transformers does not have. "
            "Install a version that has it."
        )
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        raise InputError(f"{path / CONFIG} names the architecture {name:.80}, which is no model. Expected one.")
    return architecture


def _expect_no_timm(architecture: Any, path: Path) -> None:
    """Expects that timm makes no part of the model, by what transformers completes the configuration with, too.

    Raises:
        InputError: It does.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - an extra

    for kind in (AutoConfig, architecture.config_class):
        try:
            completed = kind.from_pretrained(path, local_files_only=True, trust_remote_code=False).to_dict()
        except Exception:  # noqa: BLE001, S112 - whatever it is, loading the model reports it better
            continue
        expect_no_timm(completed, path / CONFIG)


def load_whole(path: Path) -> "PreTrainedModel":
    """Loads the module with its values, in evaluation mode.

    Its dtype is the one that its configuration names, or else that of its file.

    Raises:
        InputError: See `TransformersDirectory.open`.
    """
    _expect_weights(path)
    architecture = find_architecture(path)
    from transformers.utils import logging  # noqa: PLC0415 - an extra

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, loading = architecture.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
        )
    except Exception as error:
        raise InputError(f"transformers cannot load {path}: {first_line(error)}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:5])
        raise InputError(
            f"{path} lacks weights that {architecture.__name__} has: {missing}. Expected a complete checkpoint."
        )
    result: PreTrainedModel = module.eval()
    return result


def trace_module(module: "PreTrainedModel", path: Path, example: Any = None) -> torch.export.ExportedProgram:
    """Traces the module's forward pass with the cache off, for any size of batch and sequence that the model allows.

    A module that makes its batch size a part of the program is traced for one sample at a time.

    Args:
        module: The module.
        path: Its directory.
        example: See `make_example_inputs`.

    Raises:
        InputError: No example input can be made, or `torch.export` cannot trace the module.
    """
    inputs = make_example_inputs(module, path, example)
    arguments = {"use_cache": False} if "use_cache" in inspect.signature(module.forward).parameters else {}
    _switch_cache_off(module.config)
    try:
        program = trace(module, (), inputs | arguments, str(path))
        if not _is_batch_fixed(program):
            return program
        return trace(module, (), {name: value[:1] for name, value in inputs.items()} | arguments, str(path))
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}. {_tell_way_out(module, inputs)}") from error


def _is_batch_fixed(program: torch.export.ExportedProgram) -> bool:
    """Whether the number of samples that a program was traced with has become a part of it."""
    fed = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in fed]
    return any(isinstance(value, Tensor) and read_shape(value)[:1] == (BATCH,) for value in values)


def _switch_cache_off(config: Any) -> None:
    """Switches the cache off in a configuration and in those in it, for modules whose `forward` does not take it."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if getattr(part, "use_cache", False):
            part.use_cache = False


def _tell_way_out(module: "PreTrainedModel", inputs: Mapping[str, Tensor]) -> str:
    missing = " and ".join(name for name in choose_inputs(module) if name not in inputs)
    others = ", ".join(name for name in list_parameters(module) if name not in inputs)
    wanted = f"{missing} beside these" if missing else "inputs that the model runs on"
    return f"Expected {wanted}, by name in --calibration; the model also takes {others or 'nothing else'}."
