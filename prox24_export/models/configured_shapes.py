"""Hugging Face directories that hold a configuration and no weights: a graph of shapes, for what needs no values."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prox24_export.errors import InputError, first_line
from prox24_export.models.transformers_directory import (
    SAFETENSORS,
    TransformersDirectory,
    find_architecture,
    trace_module,
)
from prox24_export.passes.front_torch.graph import FxGraph


def has_only_shapes(frontend: Any) -> bool:
    """Whether a front end is of a directory without weights."""
    return isinstance(frontend, TransformersDirectory) and not list(frontend.path.glob(f"*{SAFETENSORS}"))


def open_shapes(path: Path) -> FxGraph:
    """Traces the model that a configuration describes; its weights take no memory, and their values mean nothing.

    Args:
        path: The directory.

    Raises:
        InputError: The configuration is unsuitable, or the model cannot be built or traced.
    """
    architecture = find_architecture(path)
    from transformers import AutoConfig  # noqa: PLC0415 - an extra

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            module = architecture._from_config(config).eval()  # noqa: SLF001 - the one way to a module without values
        module.tie_weights()
    except Exception as error:
        raise InputError(f"transformers cannot build the model of {path}: {first_line(error)}") from error
    _give_every_tensor_a_place(module)
    return FxGraph(path, trace_module(module, path))


def _give_every_tensor_a_place(module: nn.Module) -> None:
    """Replaces tensors of the meta device by a zero that is spread over their shape, one for each.

    Tracing and the search for tied weights tell tensors apart by their place in memory, and those of the meta device
    have none.
    """
    replaced: dict[int, Tensor] = {}
    for part in module.modules():
        own: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)  # noqa: SLF001 - the way to tied ones
        for tensors in own:
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    tensors[name] = replaced.setdefault(id(tensor), _spread_zero(tensor))


def _spread_zero(tensor: Tensor) -> Tensor:
    zero = torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape)
    return nn.Parameter(zero, requires_grad=False) if isinstance(tensor, nn.Parameter) else zero
