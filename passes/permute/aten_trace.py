"""A model as a graph of ATen operators with all shapes known, whichever front end opened it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch.func import functional_call, functionalize
from torch.nn.attention import SDPBackend, sdpa_kernel

from prox24_export.errors import Prox24Error
from prox24_export.passes.front_torch.flat_module import make_flat_module
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.graph.arrays import as_tensor
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.passes.permute.record import OperatorRecorder


@dataclass(frozen=True)
class AtenTrace:
    """What a model computes for one batch.

    Attributes:
        graph: The calls; `meta["val"]` of each has its shape.
        stored: The name of the stored tensor that a placeholder is, by the placeholder's name.
        constants: What else a placeholder or an attribute is, by its name, which the model does not store as it is.
        inputs: The name of the model's input that a placeholder is, by its name.
    """

    graph: fx.Graph
    stored: Mapping[str, str]
    constants: Mapping[str, object]
    inputs: Mapping[str, str]


def trace_to_aten(graph: TracedGraph, feeds: Feeds) -> AtenTrace:
    """Runs one batch through a model and writes down the ATen operators that it runs.

    Args:
        graph: The model.
        feeds: The batch by input name.

    Raises:
        NotDifferentiableError: An operator of an ONNX file is not known as a torch function.
        RuntimeError: What the model computes cannot be traced, for example because sizes depend on the data.
    """
    module, stored = open_as_module(graph)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    inputs = tuple(as_tensor(feeds[value.name]) for value in graph.inputs)

    def run(state: dict[str, Tensor], *arguments: Tensor) -> object:
        return functional_call(module, state, arguments)

    traced_function = functionalize(run) if isinstance(graph, FxGraph) else run  # sizes of ONNX graphs are values
    recorder = OperatorRecorder(_list_decompositions())
    names = {place: recorder.take(place.replace(".", "_"), tensor) for place, tensor in tensors.items()}
    of_inputs = [recorder.take(f"input_{place}", tensor) for place, tensor in enumerate(inputs)]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), recorder:
        results = traced_function(tensors, *inputs)
    recorder.give(results if isinstance(results, (tuple, list)) else (results,))
    return AtenTrace(
        recorder.graph,
        {name: stored[place] for place, name in names.items() if place in stored},
        {name: tensors[place] for place, name in names.items() if place not in stored} | recorder.constants,
        dict(zip(of_inputs, (value.name for value in graph.inputs), strict=True)),
    )


@cache
def _list_decompositions() -> dict[Any, Any]:
    """What takes operators apart until only torch's core operators are left."""
    return dict(core_aten_decompositions())


def open_as_module(graph: TracedGraph) -> tuple[fx.GraphModule, dict[str, str]]:
    """A model as a function, and the name of the stored tensor by the function's name for it."""
    if isinstance(graph, FxGraph):
        program = graph.whole_program()
        flat = make_flat_module(program)
        places = {**flat.buffers, **flat.parameters}
        for node in flat.module.graph.nodes:  # strides are others where attention is taken apart
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        flat.module.recompile()
        return flat.module, {places[name]: name for name in reversed(program.state_dict) if name in places}
    from prox24_export.passes.front_onnx.graph import OnnxGraph  # noqa: PLC0415 - torch programs do without ONNX
    from prox24_export.passes.onnx_to_fx.convert import ConvertToFx  # noqa: PLC0415

    if not isinstance(graph, OnnxGraph):
        raise Prox24Error(f"graph must be an FxGraph or an OnnxGraph. Got {type(graph).__name__}.")
    converted = ConvertToFx(every_tensor=True).call(graph=graph)
    # An initializer that is also an input may be given another value by the caller. Where all of them are inputs, that
    # is only the exporter's habit: so it had to be before version 4 of the format.
    names = {tensor.name for tensor in graph.proto.graph.initializer}
    given = {value.name for value in graph.proto.graph.input} & names
    given = set() if given == names else given
    stored = {**converted.integers, **converted.parameters}
    return converted.module, {place: name for name, place in stored.items() if name not in given}
