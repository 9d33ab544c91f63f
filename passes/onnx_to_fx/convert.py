"""Converts an ONNX graph to a differentiable torch function whose parameters are the tensors that the file stores.

The steps are: read the nodes by the table of operators, find the stored tensors that a gradient reaches, compute once
what depends on no input and no parameter, and write the rest as a torch.fx graph.
"""

import builtins
import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import getitem
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx import inliner
from torch import Tensor, fx, nn

from prox24_export.errors import first_line
from prox24_export.passes.front_onnx import float32_copy, linear_operators
from prox24_export.passes.front_onnx.constants import find_stored_tensor
from prox24_export.passes.front_onnx.external_data import open_model
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.mapped_tensors import read_own
from prox24_export.passes.onnx_to_fx.operators import (  # noqa: F401 (each enters its operators into the table)
    attention,
    elementwise,
    layers,
    layout,
    make,
    quantise,
    recurrent,
    reduce,
    resize,
    select,
    windows,
)
from prox24_export.passes.onnx_to_fx.steps import GraphStep, find_reached, find_taken_as_tensors, pair_quantisation
from prox24_export.passes.onnx_to_fx.table import (
    NEWEST_OPSET,
    TABLE,
    NotDifferentiableError,
    Unsupported,
    look_up,
)

TORCH_TYPES = {
    ir.DataType.BOOL: torch.bool,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
}
NARROW = {torch.float16, torch.bfloat16}
INTEGERS = {ir.DataType.INT8, ir.DataType.UINT8}  # of weights behind DequantizeLinear
DEQUANTISE = "DequantizeLinear"
LONGEST_LITERAL = 64  # most entries of a vector that is written into the graph as numbers


@dataclass(frozen=True)
class Converted:
    """A model as a differentiable function.

    Attributes:
        module: The function. It takes the model's inputs as tensors, in their order, and returns its outputs as a
            tuple, in their order. In each of its nodes `meta["onnx"]` holds (name, operator) of the ONNX node, and
            `meta["value"]` the name of the ONNX value.
        parameters: Name of a parameter of `module` by the name of the stored tensor. Parameters are the stored float
            tensors with at least one axis that a gradient reaches. All other stored tensors, and what is computed from
            them alone, are buffers.
        inputs: Name of an argument of `module` by the name of the model's input.
        dequantised: Names of the buffers that hold what DequantizeLinear makes of a stored int8 or uint8 tensor with
            at least two axes, by the name of that tensor. The scales of stored integers are never parameters.
        integers: Name of the buffer by the name of such a tensor itself, where `every_tensor` is set.
        is_widened: Whether float16 or bfloat16 is computed, and returned, as float32.
    """

    module: fx.GraphModule
    parameters: Mapping[str, str]
    inputs: Mapping[str, str]
    dequantised: Mapping[str, Sequence[str]] = field(default_factory=dict)
    integers: Mapping[str, str] = field(default_factory=dict)
    is_widened: bool = False


@dataclass(frozen=True)
class ConvertToFx:
    """The pass that converts a graph, and its settings.

    Attributes:
        every_tensor: Whether every stored float tensor is a parameter, also those that no gradient reaches, so that
            nothing that is computed from one is known before the function is called.
    """

    every_tensor: bool = False

    def call(self, *, graph: OnnxGraph) -> Converted:
        """Converts a model, in the form in which ONNX Runtime runs it here, to a torch function.

        float16 and bfloat16 are computed in float32. The result is compared by `check.check_conversion`.

        Args:
            graph: The model.

        Raises:
            NotDifferentiableError: The table does not cover an operator of the model.
            InputError: ONNX Runtime cannot load the model.
        """
        self.requires(graph)
        proto = find_executed_model(graph)
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        return convert_model(open_model(proto, graph.path), widen=True, every_tensor=self.every_tensor)

    @staticmethod
    def requires(graph: OnnxGraph) -> None:
        """Expects a model without sparse initializers, which torch functions do not take.

        Raises:
            NotDifferentiableError: There is one.
        """
        for tensor in graph.proto.graph.sparse_initializer:
            raise NotDifferentiableError("SparseTensor", tensor.values.name)


def find_executed_model(graph: OnnxGraph) -> onnx.ModelProto:
    """Finds the model that ONNX Runtime runs here: the file, or a float32 copy of it.

    Raises:
        InputError: ONNX Runtime cannot load the model.
    """
    return float32_copy.convert_to_float32(graph.proto, graph.path) if graph.runs_in_float32 else graph.proto


def convert_model(model: ir.Model, *, widen: bool, every_tensor: bool = False) -> Converted:
    """Converts a model without functions to a torch function.

    Args:
        model: The model.
        widen: Whether float16 and bfloat16 are computed in float32.
        every_tensor: Whether every stored float tensor is a parameter; see `ConvertToFx`.

    Raises:
        NotDifferentiableError: The table does not cover an operator of the model.
    """
    return _GraphConversion(model, widen=widen, every_tensor=every_tensor).result()


def widened(x: Tensor) -> Tensor:
    """Converts float16 or bfloat16 to float32."""
    return x.float()


class LeafTracer(fx.Tracer):
    """Traces a module of these functions without looking into them, which torch does when it reads a pickled one."""

    def __init__(self) -> None:
        """Lets every function of the table stay one call."""
        functions = {entry.function for entries in TABLE.values() for entry in entries}
        super().__init__(autowrap_functions=(widened, *functions))


class _GraphConversion:
    """The state of one conversion: what every ONNX value has become so far."""

    def __init__(self, model: ir.Model, *, widen: bool, every_tensor: bool = False) -> None:
        self._model = model
        self._widen = widen
        self._every_tensor = every_tensor
        self._is_widened = False
        opsets = model.graph.opset_imports
        self._opset = opsets.get("", opsets.get("ai.onnx", 0))
        self._names = linear_operators.name_nodes(model)
        self._root = nn.Module()
        self._graph = fx.Graph(tracer_cls=LeafTracer)
        self._nodes: dict[str, fx.Node] = {}  # values that are computed when the function is called
        self._folded: dict[str, Tensor] = {}  # values that are known now
        self._parameters: dict[str, str] = {}
        self._integers: dict[str, str] = {}  # buffers of stored integers; empty where there is none (yet)
        self._dequantised: dict[str, list[str]] = {}
        self._taken: set[str] = set()
        self._unsupported: dict[str, str] = {}  # inputs by name, with their type

    def result(self) -> Converted:
        model = self._model.graph
        model.sort()
        outputs = [str(value.name) for value in model.outputs]
        inputs = {str(value.name): self._placeholder(value) for value in model.inputs if not value.is_initializer()}
        steps = pair_quantisation(self._live(outputs), outputs)
        wanted = find_taken_as_tensors(steps, outputs) if self._every_tensor else find_reached(steps, outputs)
        stored = dict(self._stored(steps, outputs))
        self._integers = {name: "" for name, t in stored.items() if t.dtype in INTEGERS and len(t.shape) > 1}
        if not self._every_tensor:
            wanted -= {step.inputs[1] for step in steps if step.op == DEQUANTISE and step.inputs[0] in stored}
        for name, tensor in stored.items():
            self._store(name, tensor, is_parameter=name in wanted)
        for step in steps:
            if all(name is None or name in self._folded for name in step.inputs):
                self._fold(step)
            else:
                self._emit(step)
        self._graph.output(tuple(self._node(name) for name in outputs))
        self._graph.lint()
        module = fx.GraphModule(self._root, self._graph, "DifferentiableOnnx")
        integers = {name: place for name, place in self._integers.items() if place}
        return Converted(
            module,
            MappingProxyType(self._parameters),
            MappingProxyType(inputs),
            MappingProxyType(self._dequantised),
            MappingProxyType(integers),
            self._is_widened,
        )

    def _placeholder(self, value: ir.Value) -> str:
        name = str(value.name)
        dtype = TORCH_TYPES.get(value.dtype) if isinstance(value.type, ir.TensorType) and value.dtype else None
        if dtype is None:
            self._unsupported[name] = str(value.type).lower()
        argument = self._identifier(name)
        node = self._graph.placeholder(argument)
        if self._widen and dtype in NARROW:
            self._is_widened = True
            node = self._graph.call_function(widened, (node,))
        self._nodes[name] = node
        return argument

    def _live(self, outputs: Sequence[str]) -> list[GraphStep]:
        """The steps that the outputs depend on, in topological order."""
        needed, nodes = set(outputs), []
        for node in reversed(list(self._model.graph)):
            if not needed.isdisjoint(str(value.name) for value in node.outputs):
                needed.update(str(value.name) for value in node.inputs if value is not None)
                nodes.append(node)
        return [self._step(node) for node in reversed(nodes) if find_stored_tensor(node.outputs[0]) is None]

    def _step(self, node: ir.Node) -> GraphStep:
        name, op = self._names[node], node.op_type
        if node.domain not in {"", "ai.onnx"}:
            raise NotDifferentiableError(f"{node.domain}.{op}", name)
        opset = node.version or self._opset
        operator = look_up(op, opset)
        if operator is None:
            raise NotDifferentiableError(op, name, f"opset {opset}" if look_up(op, NEWEST_OPSET) else "")
        for value in node.inputs:
            if value is not None and value.name in self._unsupported:
                raise NotDifferentiableError(op, name, f"input {value.name} is {self._unsupported[value.name]}")
        inputs = _drop_trailing([value.name if value is not None and value.name else None for value in node.inputs])
        outputs = _drop_trailing([value.name or None for value in node.outputs])
        try:
            attributes = {key: self._attribute(key, value) for key, value in node.attributes.items()}
            keywords = operator.keyword_arguments(attributes, len(inputs), len(outputs))
        except Unsupported as error:
            raise NotDifferentiableError(op, name, str(error)) from error
        return GraphStep(name, op, operator, inputs, tuple(value or "" for value in outputs), keywords)

    def _attribute(self, name: str, attribute: ir.Attr) -> Any:
        match attribute.type:
            case ir.AttributeType.INT if name in float32_copy.TYPE_ATTRIBUTES:
                return self._dtype(ir.DataType(attribute.as_int())) if attribute.as_int() else None
            case ir.AttributeType.INT | ir.AttributeType.FLOAT | ir.AttributeType.STRING:
                return attribute.value
            case ir.AttributeType.INTS | ir.AttributeType.FLOATS | ir.AttributeType.STRINGS:
                return tuple(attribute.value)
            case ir.AttributeType.TENSOR:
                tensor = self._tensor(attribute.as_tensor())
                return tensor.reshape(-1)[0].item(), tensor.dtype
        raise Unsupported(f"attribute {name} of type {attribute.type.name}")

    def _dtype(self, kind: ir.DataType) -> torch.dtype:
        dtype = TORCH_TYPES.get(kind)
        if dtype is None:
            raise Unsupported(f"type {kind.name.lower()}")
        if self._widen and dtype in NARROW:
            self._is_widened = True
            return torch.float32
        return dtype

    def _tensor(self, stored: ir.TensorProtocol) -> Tensor:
        dtype = self._dtype(stored.dtype)
        return torch.from_numpy(read_own(stored)).to(dtype)

    def _stored(self, steps: Sequence[GraphStep], outputs: Sequence[str]) -> Iterator[tuple[str, ir.TensorProtocol]]:
        """Yields every stored tensor that is read, with its name."""
        read = {name for step in steps for name in step.inputs}.union(outputs)
        graph = self._model.graph
        values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        for value in values:
            tensor = find_stored_tensor(value)
            if value.name in read and tensor is not None:
                yield str(value.name), tensor

    def _store(self, name: str, stored: ir.TensorProtocol, *, is_parameter: bool) -> None:
        try:
            tensor = self._tensor(stored)
        except Unsupported as error:
            raise NotDifferentiableError("Constant", name, str(error)) from error
        if not (is_parameter and tensor.is_floating_point() and tensor.dim()):
            self._folded[name] = tensor
            return
        place = self._parameters[name] = self._identifier(name)
        self._root.register_parameter(place, nn.Parameter(tensor))
        self._nodes[name] = self._graph.get_attr(place)

    def _fold(self, step: GraphStep) -> None:
        given = [None if name is None else self._folded[name] for name in step.inputs]
        try:
            with torch.no_grad():
                result = step.operator.function(*given, **step.keywords)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotDifferentiableError(step.op, step.node, first_line(error)) from error
        if step.op == DEQUANTISE and step.inputs[0] in self._integers and not self._every_tensor:
            self._keep(step.outputs[0], result)  # a weight that may be replaced is not folded into others
            self._dequantised.setdefault(str(step.inputs[0]), []).append(str(self._nodes[step.outputs[0]].target))
            return
        values = result if "outputs" in step.operator.keywords else (result,)
        self._folded |= {name: value for name, value in zip(step.outputs, values, strict=True) if name}

    def _emit(self, step: GraphStep) -> None:
        arguments = tuple(
            self._literal(name) if place in step.operator.literals else name and self._node(name)
            for place, name in enumerate(step.inputs)
        )
        call = self._call(step, step.operator.function, arguments, dict(step.keywords), step.outputs[0])
        if "outputs" not in step.operator.keywords:
            self._nodes[step.outputs[0]] = call
            return
        for index, name in enumerate(step.outputs):
            if name:
                self._nodes[name] = self._call(step, getitem, (call, index), {}, name)

    def _call(
        self,
        step: GraphStep,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        value: str,
    ) -> fx.Node:
        node = self._graph.create_node("call_function", function, arguments, keywords, name=_sanitise(step.node))
        is_tuple = "outputs" in step.operator.keywords and function is not getitem
        node.meta |= {"onnx": (step.node, step.op)} | ({} if is_tuple else {"value": value})
        return node

    def _literal(self, name: str | None) -> Any:
        """A value as Python numbers where they are known and few; otherwise the node that computes it."""
        tensor = None if name is None else self._folded.get(name)
        if tensor is None or tensor.numel() > LONGEST_LITERAL or tensor.dim() > 1:
            return name and self._node(name)
        return tuple(tensor.tolist()) if tensor.dim() else tensor.item()

    def _node(self, name: str) -> fx.Node:
        if name not in self._nodes:
            if name not in self._folded:
                raise NotDifferentiableError("input", name, "a value that nothing computes")
            self._keep(name, self._folded[name])
            if name in self._integers:
                self._integers[name] = str(self._nodes[name].target)
        return self._nodes[name]

    def _keep(self, name: str, tensor: Tensor) -> None:
        """Makes a known value a buffer of the function."""
        place = self._identifier(name)
        self._root.register_buffer(place, tensor)
        self._nodes[name] = self._graph.get_attr(place)

    def _identifier(self, name: str) -> str:
        """Makes a new name that Python and torch allow."""
        place = _sanitise(name)
        while place in self._taken or keyword.iskeyword(place) or hasattr(builtins, place) or _is_reserved(place):
            place += "_"
        self._taken.add(place)
        return place


def _sanitise(name: str) -> str:
    place = re.sub(r"\W", "_", name, flags=re.ASCII)
    return place if place[:1].isalpha() else f"v_{place}"


def _is_reserved(name: str) -> bool:
    return (
        name in {"self", "torch", "device", "inf", "nan"} or hasattr(fx.GraphModule, name) or name in vars(nn.Module())
    )


def _drop_trailing(names: Sequence[str | None]) -> tuple[str | None, ...]:
    last = max((place for place, name in enumerate(names) if name), default=-1)
    return tuple(names[: last + 1])
