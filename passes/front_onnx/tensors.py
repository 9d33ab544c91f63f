"""The tensors that an ONNX model stores, wherever they are: initializers, attributes, bodies, functions."""

from collections.abc import Iterator

import onnx


def find_model_tensors(model: onnx.ModelProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """(name, tensor) of everything stored in a model; the name is None where no layer can own it."""
    yield from _find_graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            for _, tensor in find_node_tensors(node):
                yield None, tensor


def find_node_tensors(node: onnx.NodeProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """(name, tensor) of a node's attributes, bodies included; only a Constant's own `value` has a name."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            owned = node.op_type == "Constant" and attribute.name == "value"
            yield (node.output[0] if owned else None), attribute.t
        for tensor in attribute.tensors:
            yield None, tensor
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for _, tensor in _find_graph_tensors(body):
                yield None, tensor


def _find_graph_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        yield from find_node_tensors(node)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)
