"""A torch module as an exported program: functional, every size dynamic that may be."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from prox24_export.errors import InputError, first_line


def trace(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> ExportedProgram:
    """Traces a module in evaluation mode, as `torch.export` does without Dynamo; its modes are restored.

    The first axis is dynamic, and so is every axis of integer inputs (token ids), where the model allows it. The sizes
    of images and of sound are the model's.

    Args:
        module: What to trace.
        args: Example inputs by position; empty where `kwargs` has them.
        kwargs: Example inputs by name: tensors, or values that become part of the program.
        name: What messages call the model.

    Raises:
        InputError: `torch.export` cannot trace it.
    """
    by_name = {key: _find_dynamic_axes(value) for key, value in kwargs.items()}
    shapes: Any = by_name or tuple(_find_dynamic_axes(value) for value in args)
    try:
        with _switch_to_evaluation(module), _silence_warnings():
            return make_functional(
                torch.export.export(module, tuple(args), dict(kwargs), dynamic_shapes=shapes, strict=False)
            )
    except Exception as error:
        raise InputError(f"torch.export cannot trace {name}: {first_line(error)}") from error


def make_functional(program: ExportedProgram) -> ExportedProgram:
    """The same program with nothing decomposed, but nothing changed in place any more."""
    with _silence_warnings():
        result: ExportedProgram = program.run_decompositions({})
        return result


def replace_tensors(program: ExportedProgram, tensors: Mapping[str, Tensor]) -> ExportedProgram:
    """A program with other parameters; tied ones stay tied. The one given is not touched."""
    state = program.state_dict
    by_place = {identify_memory(state[name], name): tensor for name, tensor in tensors.items()}
    changed = {
        name: nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        for name, old in state.items()
        if (new := by_place.get(identify_memory(old, name))) is not None
    }
    with _silence_warnings():
        return ExportedProgram(
            root=program.graph_module,
            graph=program.graph,
            graph_signature=program.graph_signature,
            state_dict=state | changed,
            range_constraints=program.range_constraints,
            module_call_graph=program.module_call_graph,
            example_inputs=program.example_inputs,
            constants=program.constants,
        )


def identify_memory(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """What tied tensors share and no others do; of an empty one, which has no memory, its name."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else (name,)


def _find_dynamic_axes(value: Any) -> dict[int, Any] | None:
    if not isinstance(value, Tensor):
        return None
    axes = range(min(value.ndim, 1) if value.is_floating_point() else value.ndim)
    return dict.fromkeys(axes, torch.export.Dim.AUTO)


@contextmanager
def _switch_to_evaluation(module: nn.Module) -> Iterator[None]:
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training


@contextmanager
def _silence_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing
        yield
