"""Makes a float32 copy of a bfloat16 or float64 model, to run it where ONNX Runtime lacks CPU kernels.

Only calibration and accuracy use the copy; the exported file keeps its own types.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from prox24_export.passes.front_onnx.external_data import load_tensors
from prox24_export.passes.front_onnx.runtime import MAY_LACK_KERNELS

TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype", "stash_type"}  # integers that name an element type


def convert_to_float32(proto: onnx.ModelProto, path: Path, leave: Collection[str] = ()) -> onnx.ModelProto:
    """Makes a copy of a model in which every bfloat16 and float64 is float32.

    Args:
        proto: The model.
        path: Its file, beside which are the external data; the copy holds them in memory.
        leave: Names of initializers that stay external, in their own type.

    Raises:
        InputError: External data cannot be read.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    load_tensors(copy, path, leave)
    del copy.graph.value_info[:]
    for value in (*copy.graph.input, *copy.graph.output):
        _convert_type(value.type)
    for tensor in copy.graph.initializer:
        if tensor.name not in leave:
            _convert_tensor(tensor)
    for node in _walk_nodes(copy.graph.node):
        _convert_node(node)
    for function in copy.functions:
        del function.value_info[:]
        for node in _walk_nodes(function.node):
            _convert_node(node)
    return copy


def widen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Converts an array of the original model to the type that it has in the copy."""
    return array.astype(np.float32) if array.dtype.name in MAY_LACK_KERNELS.values() else array


def _walk_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yields nodes and those of their bodies. The values of the bodies are converted on the way."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for tensor in body.initializer:
                    _convert_tensor(tensor)
                del body.value_info[:]
                for value in (*body.input, *body.output):
                    _convert_type(value.type)
                yield from _walk_nodes(body.node)


def _convert_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _convert_tensor(attribute.t)
        for tensor in attribute.tensors:
            _convert_tensor(tensor)
        if attribute.name in TYPE_ATTRIBUTES and attribute.i in MAY_LACK_KERNELS:
            attribute.i = onnx.TensorProto.FLOAT


def _convert_type(kind: onnx.TypeProto) -> None:
    match kind.WhichOneof("value"):
        case "tensor_type" if kind.tensor_type.elem_type in MAY_LACK_KERNELS:
            kind.tensor_type.elem_type = onnx.TensorProto.FLOAT
        case "sequence_type":
            _convert_type(kind.sequence_type.elem_type)
        case "optional_type":
            _convert_type(kind.optional_type.elem_type)


def _convert_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in MAY_LACK_KERNELS:
        tensor.CopyFrom(onnx.numpy_helper.from_array(widen(onnx.numpy_helper.to_array(tensor)), tensor.name))
