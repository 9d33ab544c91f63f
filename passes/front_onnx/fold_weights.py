"""Folds weights that a model computes from constants: the copy that is worked on stores them, as if the file did."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir

from prox24_export.passes.front_onnx import external_data, float32_copy, runtime
from prox24_export.passes.front_onnx.constant_shapes import ConstantType, infer_constant_types
from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS
from prox24_export.passes.front_onnx.foldable import Chain, choose_safe, find_chain, find_computed_weights
from prox24_export.passes.front_onnx.tensors import count_bytes, find_model_tensors
from prox24_export.passes.graph.arrays import EXTERNAL_ABOVE, Array
from prox24_export.passes.graph.protocol import Candidate, Skipped

FIRST_WITH_CONSTANTS = 4  # version of the format from which initializers need not be inputs


def fold_weights(proto: onnx.ModelProto, model: ir.Model, path: Path) -> dict[str, str]:
    """Folds weights of products that are computed from constants, where that is safe; see `foldable`.

    ONNX Runtime computes them. Each becomes an initializer that has the name of the value; nodes and initializers that
    nothing reads any more are removed. What cannot be computed stays as it is.

    Args:
        proto: The model. It is changed, but only where a weight is folded.
        model: The same model, with its computed values marked.
        path: Its file, beside which are the external data.

    Returns:
        The operators that computed the folded weights, by their names.
    """
    weights = find_computed_weights(model)
    if not weights or proto.ir_version < FIRST_WITH_CONSTANTS or proto.training_info:
        return {}
    chains = [chain for weight in weights if (chain := find_chain(weight, model)) is not None]
    types = infer_constant_types(proto, {str(value.name) for chain in chains for value in chain.values}, path)
    stored = sum(count_bytes(tensor, str(path)) or 0 for _, tensor in find_model_tensors(proto))
    places = {node: place for place, node in enumerate(model.graph)}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    folded: dict[Chain, onnx.TensorProto] = {}
    for group in choose_safe(chains, types, stored=stored, room=EXTERNAL_ABOVE - proto.ByteSize()):
        with suppress(Exception):  # whatever the libraries cannot compute, and files that cannot be read: told later
            arrays = _compute(_cut_out(proto, group, places, tensors), group, types, path)
            folded |= {
                chain: onnx.numpy_helper.from_array(array, chain.weight.name)
                for chain, array in zip(group, arrays, strict=True)
            }
    if folded:
        _store(proto, folded, sorted({places[node] for chain in folded for node in chain.nodes}, reverse=True))
    return {str(chain.weight.name): chain.operator for chain in folded}


def note_folded(layers: Iterable[Candidate | Skipped], folded: Mapping[str, str]) -> list[Candidate | Skipped]:
    """Adds a note to each layer whose weight is folded; `folded` has the operators as `fold_weights` returns them."""
    return [
        replace(layer, notes=(f"its weight was computed by {folded[layer.weight]}: it is stored folded",))
        if isinstance(layer, Candidate) and layer.weight in folded
        else layer
        for layer in layers
    ]


def _cut_out(
    proto: onnx.ModelProto,
    chains: Sequence[Chain],
    places: Mapping[ir.Node, int],
    tensors: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """Makes a model of the nodes of some chains, which returns their weights."""
    leaves = dict.fromkeys(str(leaf.name) for chain in chains for leaf in chain.leaves)
    graph = onnx.GraphProto(name="weights")
    graph.node.extend(proto.graph.node[place] for place in sorted({places[n] for chain in chains for n in chain.nodes}))
    graph.initializer.extend(tensors[name] for name in leaves)
    graph.output.extend(onnx.ValueInfoProto(name=chain.weight.name) for chain in chains)
    standard = [opset for opset in proto.opset_import if opset.domain in ONNX_DOMAINS]
    return onnx.ModelProto(ir_version=proto.ir_version, opset_import=standard, graph=graph)


def _compute(
    segment: onnx.ModelProto, chains: Sequence[Chain], types: Mapping[str, ConstantType], path: Path
) -> list[Array]:
    """Computes the weights of some chains, in the types in which the model has them.

    Raises:
        ValueError: A result is not of the size or type that was inferred.
    """
    external_data.load_tensors(segment, path)
    lacks_kernels = any(types[str(v.name)].kind == onnx.TensorProto.BFLOAT16 for chain in chains for v in chain.values)
    if lacks_kernels:
        segment = float32_copy.convert_to_float32(segment, path)
    results: list[Array] = runtime.open_session(segment.SerializeToString()).run(None, {})
    arrays = []
    for chain, result in zip(chains, results, strict=True):
        wanted = types[str(chain.weight.name)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(wanted.kind)
        array = result.astype(dtype) if lacks_kernels else result
        if (array.shape, array.dtype) != (wanted.shape, dtype):
            raise ValueError(f"{chain.weight.name} has shape {array.shape} and type {array.dtype}. Expected {wanted}.")
        arrays.append(array)
    return arrays


def _store(proto: onnx.ModelProto, folded: Mapping[Chain, onnx.TensorProto], places: Sequence[int]) -> None:
    """Stores weights in a model, and removes what nothing reads any more.

    Args:
        proto: The model, which is changed.
        folded: The weights.
        places: Places of the nodes that computed them, the last one first.
    """
    graph = proto.graph
    names = {tensor.name for tensor in folded.values()}
    leaves = {leaf.name for chain in folded for leaf in chain.leaves}
    _rename_outputs([graph.node[place] for place in places], names, graph)
    reads = Counter(_walk_read_names(graph))
    gone: set[str] = set()
    for place in places:
        node = graph.node[place]
        if not any(reads[name] for name in node.output if name):
            reads.subtract(_walk_read_names_of(node))
            gone.update(node.output)
            del graph.node[place]
    for place in reversed(range(len(graph.initializer))):
        name = graph.initializer[place].name
        if name in leaves and not reads[name]:
            gone.add(name)
            del graph.initializer[place]
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in gone:
            del graph.value_info[place]
    graph.initializer.extend(folded.values())


def _rename_outputs(nodes: Iterable[onnx.NodeProto], names: Collection[str], graph: onnx.GraphProto) -> None:
    """Gives results that are stored now another name: a node stays as long as one of its results is read."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer} | set(_walk_read_names(graph))
    for node in nodes:
        for index, name in enumerate(node.output):
            if name in names:
                new = f"{name} computed"
                while new in taken:
                    new += "'"
                taken.add(new)
                node.output[index] = new


def _walk_read_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yields every name that a node of a graph reads, bodies included, or that the graph returns."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from _walk_read_names_of(node)


def _walk_read_names_of(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _walk_read_names(body)
