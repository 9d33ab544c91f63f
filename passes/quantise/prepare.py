"""Prepares a copy of a model for quantisation: an opset that knows INT8 per channel, no functions, names for nodes."""

from pathlib import Path

import onnx
import onnx.inliner
import onnx_ir as ir

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import linear_operators, runtime
from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS
from prox24_export.passes.front_onnx.external_data import load_tensors
from prox24_export.passes.front_onnx.graph import OnnxGraph

FIRST_OPSET = 13  # of QuantizeLinear and DequantizeLinear with one scale per channel


def prepare_copy(graph: OnnxGraph) -> tuple[onnx.ModelProto, list[str]]:
    """Prepares a copy of a model, whose external data stay in their files where the opset stays.

    Returns:
        The copy, in which every node of the main graph has a name of its own, and notes for the user.

    Raises:
        InputError: The model holds sparse initializers, or its opset cannot be raised.
    """
    if graph.proto.graph.sparse_initializer:
        raise InputError(f"{graph.path} holds sparse initializers, which cannot be quantised. Store them densely.")
    proto = _name_nodes(graph.proto)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS), 1)
    notes = []
    if opset < FIRST_OPSET:
        proto = _raise_opset(proto, opset, graph.path)
        notes.append(f"opset raised from {opset} to {FIRST_OPSET}: DequantizeLinear per channel needs it")
    return _name_nodes(proto), notes


def _name_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.from_proto(proto)
    for node, name in linear_operators.name_nodes(model).items():
        node.name = name
    model.ir_version = max(model.ir_version or 0, 4)  # before, every initializer was an input too
    return ir.to_proto(model)


def _raise_opset(proto: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    loaded = onnx.ModelProto()
    loaded.CopyFrom(proto)
    try:
        load_tensors(loaded, path)
        return onnx.version_converter.convert_version(loaded, FIRST_OPSET)
    except Exception as error:
        raise InputError(
            f"{path} has opset {opset}, INT8 needs {FIRST_OPSET}, and onnx cannot raise it: "
            f"{runtime.shorten_message(error)}. Export the model with opset {FIRST_OPSET} or later, or use fp16."
        ) from error
