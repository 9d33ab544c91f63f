"""Which front end reads and writes a model: the one place that asks what kind of model it is."""

from pathlib import Path
from typing import Any

from prox24_export.errors import InputError
from prox24_export.input_files import expect_no_url, expect_path, propose_near
from prox24_export.models.frontend import CONFIG, Frontend
from prox24_export.models.onnx import OnnxFile

PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}
PROGRAM = ".pt2"
KINDS = "an .onnx file, a Hugging Face directory, a .pt2 file or module:function"


def find_frontend(model: Any, example: Any = None) -> Frontend:
    """Finds the front end for a model. Nothing is read yet but the names of files.

    Args:
        model: A path, `module:function`, or a torch module.
        example: Inputs to trace a module or a directory with: a tensor, a tuple of tensors, or a dictionary of them by
            argument name. Other models do not need it.

    Raises:
        InputError: The model is a pickle, a name that no file can have, a directory that holds no model, a module
            without example inputs, or an object of another kind.
    """
    if not isinstance(model, (str, Path)):
        return _find_for_module(model, example)
    expect_path(model, "model")
    path = Path(model)
    if not path.exists():
        expect_no_url(model, "model")
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run any code when it is read. Expected {KINDS}: save the model with "
            "save_pretrained (safetensors) or torch.export.save, or export it to ONNX."
        )
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise InputError(f"no such model: the directory {path} holds no {CONFIG}. Expected {KINDS}.")
        from prox24_export.models.transformers_directory import TransformersDirectory  # noqa: PLC0415 - an extra

        return TransformersDirectory(path, example)
    if path.suffix.lower() == PROGRAM:
        from prox24_export.models.torch_program import TorchProgram  # noqa: PLC0415 - only for models of this kind

        return TorchProgram.from_file(path)
    if ":" in str(model) and not path.exists() and path.suffix.lower() != ".onnx":
        from prox24_export.models.torch_program import TorchProgram  # noqa: PLC0415

        return TorchProgram.from_function(str(model))
    if not path.exists():
        raise InputError(f"no such model: {path}. Expected {KINDS}.{_propose_way(path)}")
    return OnnxFile(path)


def _propose_way(path: Path) -> str:
    """Proposes what may have been meant by a path that leads nowhere: a file beside it, or a name on a hub."""
    if near := propose_near(path):
        return near
    if path.suffix or path.is_absolute() or len(path.parts) != 2 or path.parent.exists():  # noqa: PLR2004 - OWNER/NAME
        return ""
    return (
        f" Nothing is downloaded: for a model of the Hugging Face hub run hf download {path} --local-dir {path.name}."
    )


def is_traced_on_samples(model: Any) -> bool:
    """Whether a model takes the names and shapes of its inputs from samples of any source: a directory does.

    Raises:
        InputError: The model is a name that no file can have.
    """
    if not isinstance(model, (str, Path)):
        return False
    expect_path(model, "model")
    return Path(model).is_dir()


def _find_for_module(module: Any, example: Any) -> Frontend:
    from torch import nn  # noqa: PLC0415 - only for models of this kind

    from prox24_export.models.torch_program import TorchProgram  # noqa: PLC0415

    if not isinstance(module, nn.Module):
        raise InputError(f"the model is a {type(module).__name__}. Expected a torch module, or the path of {KINDS}.")
    if example is None:
        raise InputError("a torch module is traced on its first calibration batch. Give batches of inputs.")
    return TorchProgram.from_module(module, example)
