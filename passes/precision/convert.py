"""Rewrites a float32 graph so that all but some nodes compute in a lower precision.

There is one Cast where a type changes between two nodes. Constants are stored in the type that their readers want, so
that only activations are ever cast. This is written here because published converters often write a file that does not
load once some nodes stay in float32, as `python benchmarks/precision.py` shows, and because they know no bfloat16.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from prox24_export.passes.front_onnx.constants import FLOAT_TYPES
from prox24_export.passes.precision.choice import BODIES, has_float
from prox24_export.passes.precision.types import LowPrecision, Places, find_places, round_to

LAYOUT_ONLY = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
FLOAT = ir.DataType.FLOAT


def hoist_constants(model: ir.Model) -> None:
    """Changes a model so that its float constants are initializers of the main graph.

    `Constant` nodes become initializers, and `Cast` and `Identity` of constants are carried out. A weight keeps its
    name where a cast was its only reader.
    """
    names = Names(model)
    graph = model.graph
    for value in [value for value in graph.inputs if value.is_initializer()]:
        graph.inputs.remove(value)  # before IR version 4 every initializer was an input too
    for node in list(graph):
        if node.op_type == "Constant":
            _hoist(graph, node)
    for node in list(graph):
        if node.op_type == "Cast":
            _fold_cast(graph, node, names)
        elif node.op_type == "Identity":
            _fold_identity(graph, node)


def convert_graph(model: ir.Model, precision: LowPrecision, kept: Mapping[str, str], opset: int) -> None:
    """Changes a model so that its nodes compute in a lower precision.

    Graph inputs and outputs keep their types. Every float32 value of the main graph must have its type, and
    `hoist_constants` must have been called.

    Args:
        model: The model.
        precision: The low type.
        kept: Names of the nodes that stay in float32. All others compute in the low type as far as their operator may.
        opset: The opset of the standard operators.
    """
    graph = model.graph
    graph.sort()
    conversion = _PrecisionConversion(graph, precision, Names(model))
    for node in list(graph):
        if has_float(node):
            found = find_places(node, opset, precision)
            is_low = str(node.name) not in kept and found is not None
            conversion.node(node, found if is_low else None)
    conversion.outputs()
    conversion.initializers()


class Names:
    """Makes names that nothing in a model has yet."""

    def __init__(self, model: ir.Model) -> None:
        """Collects the names of the model, bodies included."""
        self._taken = {str(value.name) for value in model.graph.inputs} | set(model.graph.initializers)
        for node in model.graph.all_nodes():
            self._taken.update(str(value.name) for value in (*node.inputs, *node.outputs) if value is not None)
            self._taken.update([str(node.name)])

    def new(self, wanted: str) -> str:
        """Makes a new name: `wanted`, with a number where that is taken."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


@dataclass
class _PrecisionConversion:
    """One conversion. Values are told apart by their objects, so that names may change on the way.

    Attributes:
        graph: The main graph.
        precision: The low type.
        names: Makes new names.
        made: The version of a value in another type, by the value and the type.
        floats: The values that were float32 at the start.
    """

    graph: ir.Graph
    precision: LowPrecision
    names: Names
    made: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)
    floats: set[ir.Value] = field(init=False)

    def __post_init__(self) -> None:
        values = [*self.graph.inputs, *self.graph.initializers.values()]
        values += [value for node in self.graph for value in node.outputs]
        self.floats = {value for value in values if value.dtype == FLOAT}

    def node(self, node: ir.Node, low: Places | None) -> None:
        """Gives a node operands and results of the type in which it computes.

        Args:
            node: The node.
            low: Its operands and results that take the low type; None where it stays in float32.
        """
        if node.op_type != "Cast":
            for index, value in enumerate(node.inputs):
                if value in self.floats:
                    wanted = self.precision.dtype if low is not None and low.inputs[index] else FLOAT
                    node.replace_input_with(index, self.typed(value, wanted))
        for attribute in node.attributes.values():
            if attribute.type in BODIES:
                self._captures(attribute)
        for index, value in enumerate(node.outputs):
            if value in self.floats and low is not None and low.outputs[index]:
                value.type = ir.TensorType(self.precision.dtype)
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(self.precision.dtype))

    def typed(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A value in another type, which is made only once."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self.made:
            make = self._stored if value.is_initializer() else self._cast
            self.made[value, dtype] = make(value, dtype)
        return self.made[value, dtype]

    def outputs(self) -> None:
        """Gives graph outputs their old type again, under their own name."""
        for index, value in enumerate(self.graph.outputs):
            if value not in self.floats or value.dtype == FLOAT:
                continue
            name = str(value.name)
            value.name = self.names.new(f"{name}_{self.precision.word}")
            cast = self.typed(value, FLOAT)
            cast.name = name
            self.graph.outputs[index] = cast

    def initializers(self) -> None:
        """Gives the low version of a constant its name. The float32 one goes, or is renamed where it is still read."""
        for (value, _), low in self.made.items():
            if not low.is_initializer():
                continue
            name = str(value.name)
            if value.is_graph_output():
                continue
            del self.graph.initializers[name]
            del self.graph.initializers[str(low.name)]
            low.name = name
            self.graph.register_initializer(low)
            if value.uses():
                value.name = self.names.new(f"{name}_float32")
                self.graph.register_initializer(value)

    def _captures(self, attribute: ir.Attr) -> None:
        """Leaves bodies as they are: what they read of the main graph is given to them in float32."""
        bodies = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else list(attribute.as_graphs())
        for body in bodies:
            for inner in body.all_nodes():
                for index, value in enumerate(inner.inputs):
                    if value in self.floats:
                        inner.replace_input_with(index, self.typed(value, FLOAT))
            for index, value in enumerate(body.outputs):
                if value in self.floats:
                    body.outputs[index] = self.typed(value, FLOAT)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = self.names.new(f"{value.name}_as_{FLOAT_TYPES[dtype]}")
        cast = ir.node("Cast", [value], {"to": int(dtype)}, name=name)
        cast.outputs[0].name = name
        cast.outputs[0].type = ir.TensorType(dtype)
        cast.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], cast)
        else:
            self.graph.insert_after(producer, cast)
        return cast.outputs[0]

    def _stored(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = self.names.new(f"{value.name}_as_{FLOAT_TYPES[dtype]}")
        made = _make_initializer(name, value.const_value, dtype)
        self.graph.register_initializer(made)
        return made


def _make_initializer(name: str, tensor: ir.TensorProtocol | None, dtype: ir.DataType) -> ir.Value:
    """Makes a constant of another type. It is computed when the file is written, so that one is in memory at a time."""
    if tensor is None:
        raise AssertionError(f"constant {name} holds no tensor")

    def make() -> ir.TensorProtocol:
        return ir.tensor(round_to(tensor.numpy(), FLOAT_TYPES[dtype]), name=name)

    shape = ir.Shape(tensor.shape.numpy())
    lazy = ir.LazyTensor(make, dtype=dtype, shape=shape, name=name)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=shape, const_value=lazy)


def _hoist(graph: ir.Graph, node: ir.Node) -> None:
    """Makes a float `Constant` node an initializer."""
    value = node.outputs[0]
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype not in FLOAT_TYPES or value.is_graph_output():
        return
    stored = ir.Value(name=value.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
    stored.const_value = tensor
    value.replace_all_uses_with(stored)
    graph.remove(node, safe=True)
    graph.register_initializer(stored)


def _fold_cast(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    """Carries out a cast of a constant between float types. Layout operators before it then read the cast constant."""
    result, source = node.outputs[0], node.inputs[0]
    if source is None or result.dtype not in FLOAT_TYPES or result.is_graph_output():
        return
    chain: list[ir.Node] = []
    root = source
    while not root.is_initializer():
        producer = root.producer()
        if producer is None or producer.op_type not in LAYOUT_ONLY or len(root.uses()) > 1 or root.is_graph_output():
            return
        chain.append(producer)
        if producer.inputs[0] is None:
            return
        root = producer.inputs[0]
    if root.dtype not in FLOAT_TYPES or root.const_value is None:
        return
    cast = _make_initializer(names.new(f"{root.name}_as_{FLOAT_TYPES[result.dtype]}"), root.const_value, result.dtype)
    graph.register_initializer(cast)
    if chain:
        chain[-1].replace_input_with(0, cast)
        for layout in chain:
            layout.outputs[0].type = ir.TensorType(result.dtype)
    result.replace_all_uses_with(source if chain else cast)
    graph.remove(node, safe=True)
    if not root.uses() and not root.is_graph_output():
        name = str(root.name)
        del graph.initializers[name]
        del graph.initializers[str(cast.name)]
        cast.name = name
        graph.register_initializer(cast)


def _fold_identity(graph: ir.Graph, node: ir.Node) -> None:
    """Lets the readers of an `Identity` of a constant read the constant itself."""
    source, result = node.inputs[0], node.outputs[0]
    if source is not None and source.is_initializer() and source.dtype in FLOAT_TYPES and not result.is_graph_output():
        result.replace_all_uses_with(source)
        graph.remove(node, safe=True)
