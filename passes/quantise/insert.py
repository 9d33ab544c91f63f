"""Writes quantisers into a model: Q/DQ pairs on activations, INT8 initializers behind DequantizeLinear for weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.convert import Names
from prox24_export.passes.quantise.placement import Placement, QuantisedWeight
from prox24_export.passes.quantise.scales import round_weight

Integers = tuple[Array, Array]
"""The integers of a weight, int8 in its stored shape, and the float32 scale of each output channel."""


def insert_quantisers(
    model: ir.Model, places: Placement, scales: Mapping[str, float], rounded: Mapping[str, Integers], *, search: bool
) -> None:
    """Changes a model so that it quantises what `places` says.

    Args:
        model: The float model, whose nodes have the names that `places` has.
        places: Where quantisers stand.
        scales: The scale of each activation, by name.
        rounded: Weights that are rounded already, by name. Others are rounded to the nearest integers.
        search: Whether a nearest rounding searches the scales with the least squared error.
    """
    writer = _Writer(model, Names(model))
    nodes = {str(node.name): node for node in model.graph}
    for name, readers in places.readers.items():
        value = nodes[readers[0][0]].inputs[readers[0][1]]
        if value is None:
            raise AssertionError(f"{readers[0][0]} has no input {readers[0][1]}, where {name} was to be quantised")
        quantised = writer.quantise(value, scales[places.tied.get(name, name)])
        for reader, index in readers:
            nodes[reader].replace_input_with(index, quantised)
    for weight in places.weights.values():
        writer.store(weight, rounded.get(weight.name), search=search)
    model.graph.sort()


def round_nearest(stored: Array, weight: QuantisedWeight, *, search: bool) -> Integers:
    """Rounds a stored weight to the nearest integers, which are in its stored shape."""
    integers, scales = round_weight(weight.layout.to_matrix(stored), search=search)
    return weight.layout.from_matrix(integers), scales


@dataclass
class _Writer:
    """Writes into one model.

    Attributes:
        model: The model.
        names: Makes new names.
        zeros: Zero points that are there, by their number of channels; 0 is that of a tensor.
    """

    model: ir.Model
    names: Names
    zeros: dict[int, ir.Value] = field(default_factory=dict)

    def quantise(self, value: ir.Value, scale: float) -> ir.Value:
        """Puts QuantizeLinear and DequantizeLinear behind a value; returns what comes out of them."""
        graph = self.model.graph
        constants = self._store(f"{value.name}_scale", np.array(scale, np.float32)), self._zero(0)
        first = self._node("QuantizeLinear", [value, *constants], f"{value.name}_QuantizeLinear", ir.DataType.INT8)
        last = self._node(
            "DequantizeLinear", [first.outputs[0], *constants], f"{value.name}_DequantizeLinear", ir.DataType.FLOAT
        )
        for made in (first, last):
            made.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], [first, last])
        else:
            graph.insert_after(producer, [first, last])
        return last.outputs[0]

    def store(self, weight: QuantisedWeight, rounded: Integers | None, *, search: bool) -> None:
        """Stores a weight as integers behind DequantizeLinear, in place of what its readers read."""
        graph = self.model.graph
        value = self._find_stored(weight.name)
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            raise AssertionError(f"{weight.name} holds no tensor")
        integers, scales = rounded if rounded is not None else round_nearest(tensor.numpy(), weight, search=search)
        stored = self._store(f"{weight.name}_int8", integers)
        constants = [stored, self._store(f"{weight.name}_scale", scales), self._zero(len(scales))]
        name = f"{weight.name}_DequantizeLinear"
        node = self._node("DequantizeLinear", constants, name, ir.DataType.FLOAT, axis=weight.axis)
        node.outputs[0].shape = ir.Shape(integers.shape)
        graph.insert_before(graph[0], node)
        value.replace_all_uses_with(node.outputs[0])
        producer = value.producer()
        if producer is not None:
            graph.remove(producer, safe=True)
            return
        del graph.initializers[weight.name]
        if value in graph.inputs:  # before IR version 4 every initializer was an input too
            graph.inputs.remove(value)

    def _find_stored(self, name: str) -> ir.Value:
        graph = self.model.graph
        if name in graph.initializers:
            return graph.initializers[name]
        return next(value for node in graph for value in node.outputs if value.name == name)

    def _node(self, op: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, **more: int) -> ir.Node:
        node = ir.node(op, inputs, more, name=self.names.new(name))
        node.outputs[0].name = self.names.new(f"{name}_output")
        node.outputs[0].type = ir.TensorType(dtype)
        return node

    def _zero(self, channels: int) -> ir.Value:
        if channels not in self.zeros:
            zero = np.zeros(channels, np.int8) if channels else np.array(0, np.int8)
            self.zeros[channels] = self._store(f"int8_zero_{channels}" if channels else "int8_zero", zero)
        return self.zeros[channels]

    def _store(self, name: str, array: Array) -> ir.Value:
        made = self.names.new(name)
        tensor = ir.tensor(array, name=made)
        value = ir.Value(name=made, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value
