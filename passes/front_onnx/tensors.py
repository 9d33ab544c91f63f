"""Finds the tensors that an ONNX model stores: in initializers, attributes, bodies and functions."""

from collections.abc import Iterator

import onnx


def find_model_tensors(model: onnx.ModelProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """Yields (name, tensor) for every tensor of a model. The name is None where no layer can own the tensor."""
    yield from _find_graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            for _, tensor in find_node_tensors(node):
                yield None, tensor


def find_node_tensors(node: onnx.NodeProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """Yields (name, tensor) for every tensor in a node's attributes and bodies.

    Only the `value` of a Constant has a name: that of the node's output.
    """
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
    """Whether the data of a tensor is in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def has_external(model: onnx.ModelProto) -> bool:
    """Whether the data of any tensor of a model is in another file."""
    return any(is_external(tensor) for _, tensor in find_model_tensors(model))
