"""Moves magnitude from activations to weights, where a norm in front of the layers can take the factor.

SmoothQuant (Xiao et al. 2023, section 4): channel k of an activation reaches a_k, column k of all weights that multiply
it reaches w_k. The activation is divided by s_k = a_k^α / w_k^(1 − α), and the columns are multiplied by it, so
that the product stays the same. The division is folded into the scale and the bias of the norm that makes the
activation, and only where nothing else reads the activation, so that nothing is added to the graph. A zero stays zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from jaxtyping import Float

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Candidate
from prox24_export.passes.precision.convert import Names
from prox24_export.passes.quantise.placement import Placement, QuantisedWeight

WIDEST = 2.0**10  # of a factor in either direction: further apart, what one side gains the other loses
NORMS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}


@dataclass(frozen=True)
class SmoothGroup:
    """Layers that read one activation, and the constants in front of it that can take its factor.

    Attributes:
        activation: Name of the activation.
        weights: The weights of the layers.
        constants: The node and the index of the input of each constant that is divided.
    """

    activation: str
    weights: tuple[QuantisedWeight, ...]
    constants: tuple[tuple[str, int], ...]


def find_smooth_groups(graph: OnnxGraph, nodes: Mapping[str, ir.Node], places: Placement) -> list[SmoothGroup]:
    """Finds the activations whose factor can be folded exactly.

    Args:
        graph: The float model.
        nodes: Its nodes by name.
        places: Where quantisers stand.
    """
    by_node = {node: weight for weight in places.weights.values() for node in weight.nodes}
    rows = {
        entry.use.node
        for entry in graph.operators()
        if isinstance(entry, Candidate) and entry.use.view == Rows(-1) and entry.use.node in by_node
    }
    groups = []
    for name, readers in places.readers.items():
        value = nodes[readers[0][0]].inputs[readers[0][1]]
        if value is None or value.is_graph_output():
            continue
        using = {str(node.name) for node, _ in value.uses()}
        weights = {by_node[node].name: by_node[node] for node in using & by_node.keys()}
        whole = using <= rows and all(set(weight.nodes) <= using for weight in weights.values())
        constants = list(_find_constants(value, graph.constants)) if whole else []
        sizes = {_size(graph, nodes, place) for place in constants}
        if constants and sizes == {weight.layout.shape[1] for weight in weights.values()}:
            groups.append(SmoothGroup(name, tuple(weights.values()), tuple(constants)))
    return groups


def _find_constants(value: ir.Value, stored: AbstractSet[str]) -> Iterator[tuple[str, int]]:
    """Finds the constants of the norm that makes a value: the last multiplication and addition in front of it."""
    node = value.producer()
    if node is None:
        return
    if node.op_type in NORMS:
        last = node.attributes.get_int("axis", -1) == -1 or (
            value.shape is not None and node.attributes.get_int("axis", -1) == len(value.shape) - 1
        )
        places = [(str(node.name), index) for index in (1, 2) if index < len(node.inputs) and node.inputs[index]]
        if last and all(str(node.inputs[index].name) in stored for _, index in places):  # type: ignore[union-attr]
            yield from places
        return
    bias = _find_constant(node, stored) if node.op_type == "Add" else None
    if bias is not None:
        before = node.inputs[1 - bias]
        if before is None or len(before.uses()) > 1 or before.is_graph_output():
            return
        inner = before.producer()
        if inner is None or inner.op_type != "Mul":
            return
        scale = _find_constant(inner, stored)
        if scale is not None:
            yield str(node.name), bias
            yield str(inner.name), scale
    elif node.op_type == "Mul" and (scale := _find_constant(node, stored)) is not None:
        yield str(node.name), scale


def _find_constant(node: ir.Node, stored: AbstractSet[str]) -> int | None:
    places = [index for index, value in enumerate(node.inputs) if value is not None and str(value.name) in stored]
    return places[0] if len(places) == 1 else None


def _size(graph: OnnxGraph, nodes: Mapping[str, ir.Node], place: tuple[str, int]) -> int:
    """The size of a constant that is a vector along the last axis; 0 where it is none, or is computed."""
    value = nodes[place[0]].inputs[place[1]]
    try:
        array = graph.stored(str(value.name if value else ""))
    except KeyError:
        return 0
    return array.shape[-1] if array.ndim and array.size == array.shape[-1] else 0


def choose_factors(
    largest: Float[np.ndarray, " K"], columns: Float[np.ndarray, " K"], alpha: float
) -> Float[np.ndarray, " K"]:
    """Chooses the positive factor of each channel; 1 where a channel or its columns hold nothing but zeros.

    Args:
        largest: The largest magnitude of each channel of the activation.
        columns: The largest magnitude of each column, over all weights that multiply it.
        alpha: How much of the activation's magnitude moves to the weights, 0 to 1.
    """
    both = (largest > 0) & (columns > 0) & np.isfinite(largest)
    a, w = np.where(both, largest, 1.0).astype(np.float64), np.where(both, columns, 1.0).astype(np.float64)
    raw = a**alpha / w ** (1 - alpha)
    middle = np.exp(np.log(raw[both]).mean()) if both.any() else 1.0  # so that nothing moves for all channels alike
    return np.where(both, np.clip(raw / middle, 1 / WIDEST, WIDEST), 1.0).astype(np.float32)


def smooth(
    graph: OnnxGraph, groups: Sequence[SmoothGroup], largest: Mapping[str, Array], alpha: float
) -> onnx.ModelProto:
    """Makes a copy of a model with the factors of all groups folded in.

    Args:
        graph: The float model; external data stay in their files.
        groups: What `find_smooth_groups` found in it.
        largest: By name of the activation, the largest magnitude of each channel.
        alpha: See `choose_factors`.
    """
    model = ir.from_proto(graph.proto)
    nodes = {str(node.name): node for node in model.graph}
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    names = Names(model)
    for group in groups:
        matrices = [weight.layout.to_matrix(graph.stored(weight.name)) for weight in group.weights]
        columns = np.max([np.abs(matrix).max(0) for matrix in matrices], axis=0)
        factors = choose_factors(largest[group.activation], columns, alpha)
        for weight, matrix in zip(group.weights, matrices, strict=True):
            changed = _store(model, names.new(f"{weight.name}_smoothed"), weight.layout.from_matrix(matrix * factors))
            before = model.graph.initializers.get(weight.name) or values[weight.name]
            before.replace_all_uses_with(changed)
            _rename(model, before, changed, names)
        for name, index in group.constants:
            constant = nodes[name].inputs[index]
            array = graph.stored(str(constant.name if constant else ""))
            nodes[name].replace_input_with(index, _store(model, names.new(f"{name}_smoothed"), array / factors))
    return ir.to_proto(model)


def _store(model: ir.Model, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array.astype(np.float32), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _rename(model: ir.Model, before: ir.Value, changed: ir.Value, names: Names) -> None:
    """Gives a changed weight the name of the one in whose place it stands, which goes."""
    name, graph = str(before.name), model.graph
    del graph.initializers[str(changed.name)]
    if before.is_initializer():
        del graph.initializers[name]
        if before in graph.inputs:
            graph.inputs.remove(before)
    else:
        before.name = names.new(f"{name}_unused")  # of a Constant node
    changed.name = name
    graph.register_initializer(changed)
