"""Traces a torch module to an exported program that is functional and has every size dynamic that may be."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from prox24_export.errors import InputError, first_line


def trace(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> ExportedProgram:
    """Traces a module in evaluation mode, by `torch.export` without Dynamo. The modes of the module are restored.

    Where the model allows it, the first axis of every input is dynamic, and so is every axis of integer inputs (token
    ids). The other sizes, such as those of images and of sound, are fixed by the example inputs.

    Args:
        module: The module to trace.
        args: Example inputs by position; empty where `kwargs` holds them.
        kwargs: Example inputs by name: tensors, or values that become part of the program.
        name: Name of the model in messages.

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
        inputs = _describe_inputs({**{str(place): value for place, value in enumerate(args)}, **kwargs})
        raise InputError(f"torch.export cannot trace {name} with {inputs}: {first_line(error)}") from error


def make_functional(program: ExportedProgram) -> ExportedProgram:
    """Makes a program functional: no operator is decomposed, but none changes a tensor in place any more.

    A functional program comes back with the names that its values have, so that one that was written can be read again.
    """
    with _silence_warnings():
        result: ExportedProgram = program.run_decompositions({})
        # What was in place is numbered as if it still were. The second time, values get the names that they keep.
        return result.run_decompositions({}) if any(map(changes_in_place, program.graph.nodes)) else result


def changes_in_place(node: fx.Node) -> bool:
    """Whether a node is a call that changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def replace_tensors(program: ExportedProgram, tensors: Mapping[str, Tensor]) -> ExportedProgram:
    """Makes a program with other parameters. Tied parameters stay tied, and the program that is given does not change.

    Args:
        program: The program.
        tensors: New parameters by name, in the stored shape and dtype.
    """
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


def read_shape(value: Tensor) -> tuple[int | None, ...]:
    """Reads the sizes of a traced value; None where they are dynamic.

    A size that was to be dynamic, and that the module's own code made a number of, is that number.
    """
    return tuple(size if isinstance(size, int) else size.node.maybe_as_int() for size in value.shape)


def identify_memory(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """A key that is the same for tied tensors alone. For an empty tensor, which has no memory, it is its name."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else (name,)


def _find_dynamic_axes(value: Any) -> dict[int, Any] | None:
    if not isinstance(value, Tensor):
        return None
    axes = range(min(value.ndim, 1) if value.is_floating_point() else value.ndim)
    return {axis: torch.export.Dim.AUTO for axis in axes if value.shape[axis] > 1}  # torch fixes 0 and 1 all the same


def _describe_inputs(values: Mapping[str, Any]) -> str:
    """Describes tensors for messages, e.g. `input_ids int64 [2, 12]`."""
    return ", ".join(
        f"{name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        for name, value in values.items()
        if isinstance(value, Tensor)
    )


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
        warnings.simplefilter("ignore")  # torch's tracing warns of its own code
        yield
