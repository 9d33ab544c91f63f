"""Finds the tensors that an ONNX model stores: in initializers, attributes, bodies and functions."""

import math
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from prox24_export.errors import InputError

MOST_ENTRIES = 1 << 62  # more cannot be counted by whoever allocates them
AGAIN = "Export the model again."
MOST_AXES = 64  # of an array of numpy
TYPED = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")


def find_model_tensors(model: onnx.ModelProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """Yields (name, tensor) for every tensor of a model. The name is None where no layer can own the tensor."""
    yield from _find_graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            for _, tensor in find_node_tensors(node):
                yield None, tensor
    for training in model.training_info:
        for graph in (training.initialization, training.algorithm):
            for _, tensor in _find_graph_tensors(graph):
                yield None, tensor


def find_node_tensors(node: onnx.NodeProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """Yields (name, tensor) for every tensor in a node's attributes and bodies.

    Only the `value` of a Constant has a name: that of the node's output.
    """
    for attribute in node.attribute:
        if attribute.HasField("t"):
            owned = node.op_type == "Constant" and attribute.name == "value" and node.output
            yield (node.output[0] if owned else None), attribute.t
        for tensor in attribute.tensors:
            yield None, tensor
        sparse = [
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ]
        yield from _find_parts(sparse)
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for _, tensor in _find_graph_tensors(body):
                yield None, tensor


def _find_graph_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    yield from _find_parts(graph.sparse_initializer)
    for node in graph.node:
        yield from find_node_tensors(node)


def _find_parts(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[tuple[None, onnx.TensorProto]]:
    """Yields the values of sparse tensors, and their places; no layer can own either."""
    for tensor in sparse:
        yield None, tensor.values
        yield None, tensor.indices


def count_bytes(tensor: onnx.TensorProto, where: str) -> int | None:
    """Counts the bytes that a tensor of this shape and type has; None for strings and unknown types.

    Args:
        tensor: The tensor. Nothing is allocated for it.
        where: The model, for messages.

    Raises:
        InputError: A size is negative, or the sizes together are larger than any tensor can be.
    """
    entries = count_entries(tensor.dims, f"tensor {tensor.name!r} of {where}")
    try:
        return (entries * ir.DataType(tensor.data_type).bitwidth + 7) // 8
    except (TypeError, ValueError):
        return None


def count_entries(dims: Iterable[int], who: str) -> int:
    """Counts the entries of a shape.

    Raises:
        InputError: A size is negative, the sizes together are larger than any tensor can be, or there are too many.
    """
    sizes = list(dims)
    if len(sizes) > MOST_AXES:
        raise InputError(f"{who} has {len(sizes)} axes. Expected at most {MOST_AXES}; export the model again.")
    if any(size < 0 for size in sizes):
        raise InputError(f"{who} has the shape {sizes}. Expected no negative size; export the model again.")
    if math.prod(size for size in sizes if size) > MOST_ENTRIES:
        raise InputError(f"{who} has the shape {sizes}, which no tensor can have. Export the model again.")
    return math.prod(sizes)


def check_tensors(model: onnx.ModelProto, where: str) -> None:
    """Expects every tensor in the model file to have a possible shape, and the data for it.

    What is external is checked where it is found.

    Args:
        model: The model.
        where: Its file, for messages.

    Raises:
        InputError: A size is negative, a type is not known, or a shape has not as many entries as are stored.
    """
    for _, tensor in find_model_tensors(model):
        if is_external(tensor):
            continue
        who = f"tensor {tensor.name!r} of {where}"
        wanted = count_bytes(tensor, where)
        if tensor.data_type == onnx.TensorProto.STRING:
            wanted, stored = count_entries(tensor.dims, who), len(tensor.string_data)
        elif wanted is None:
            raise InputError(f"{who} has a type that is not known, {tensor.data_type}. {AGAIN}")
        else:  # an entry of a typed field stands for at most eight bytes
            stored = len(tensor.raw_data) or 8 * sum(len(getattr(tensor, field)) for field in TYPED)
        if wanted > stored:
            raise InputError(f"{who} has the shape {list(tensor.dims)}, and fewer values are stored. {AGAIN}")
        if len(tensor.raw_data) > wanted or not (tensor.raw_data or _is_readable(tensor)):
            raise InputError(f"{who} has the shape {list(tensor.dims)}, and other values are stored. {AGAIN}")


def _is_readable(tensor: onnx.TensorProto) -> bool:
    """Whether the entries of the typed fields, or the texts, of a tensor are as many as its shape says."""
    try:
        ir.serde.deserialize_tensor(tensor).numpy()
    except Exception:  # noqa: BLE001 - the library tells of it by several exceptions
        return False
    return True


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the data of a tensor is in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def has_external(model: onnx.ModelProto) -> bool:
    """Whether the data of any tensor of a model is in another file."""
    return any(is_external(tensor) for _, tensor in find_model_tensors(model))
