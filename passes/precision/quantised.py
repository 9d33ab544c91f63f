"""Checks 2:4 after quantisation: of each group of four integers at most two may differ from the zero point.

A float zero becomes exactly the zero point, so a weight that is 2:4 before QuantizeLinear is 2:4 after it. More entries
may become the zero point, because small ones round to it. Weights that are stored as integers are checked as they are.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.front_onnx.external_data import load_tensors
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Candidate, Node, Reason, Skipped
from prox24_export.passes.verify_pattern import PatternError, VerifiedUse, check_use

EPILOGUE = {
    "Add",
    "Relu",
    "Clip",
    "LeakyRelu",
    "Gelu",
    "Sigmoid",
    "Tanh",
    "Mul",
}  # operators that TensorRT fuses into the product


def is_quantised(graph: OnnxGraph) -> bool:
    """Whether the model holds QuantizeLinear or DequantizeLinear."""
    return any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in graph.proto.graph.node)


def find_quantised_products(graph: OnnxGraph) -> tuple[set[str], set[str]]:
    """Finds the products of a quantised model.

    Returns:
        Names of the nodes that multiply a result of DequantizeLinear, and names of those whose result goes to
        QuantizeLinear. Biases and activation functions may stand between a product and its QuantizeLinear, because
        TensorRT fuses them.
    """
    by_output = {name: node for node in graph.nodes for name in node.outputs}
    by_name = {node.name: node for node in graph.nodes}
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    inside, followed = set(), set()
    for found in graph.operators():
        if isinstance(found, Skipped) and found.reason is not Reason.QUANTISED_WEIGHT:
            continue
        wanted = found.use.node if isinstance(found, Candidate) else found.name
        if wanted not in by_name:
            continue  # in a body
        node = by_name[wanted]
        if any(by_output[name].op == "DequantizeLinear" for name in node.inputs if name in by_output):
            inside.add(node.name)
        ahead = node
        while len(next_ones := readers.get(ahead.outputs[0], [])) == 1 and next_ones[0].op in EPILOGUE:
            ahead = next_ones[0]
        if next_ones and all(reader.op == "QuantizeLinear" for reader in next_ones):
            followed.add(node.name)
    return inside, followed


def read_integers(graph: OnnxGraph) -> OnnxGraph:
    """Reads a model with float32 `q − zero_point` in place of dequantised constants; itself where none is.

    Linear layers whose weight is stored as integers in a form that is not pruned are found in it, under their names,
    and 2:4 can be checked there. Integers that are pruned as they are stored stay what they are.
    """
    return OnnxGraph(graph.path, _replace_by_integers(graph)) if is_quantised(graph) else graph


def verify_quantised(graph: OnnxGraph, nodes: Sequence[str]) -> tuple[VerifiedUse, ...]:
    """Checks the integers that nodes multiply by, along the reduction axis of each node.

    The float weight of a node that is not quantised is checked as it is.

    Args:
        graph: The quantised model.
        nodes: Names of the nodes.

    Raises:
        PatternError: A node has no constant weight, or more than two integers of a group differ from the zero point.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "integers.onnx"
        onnx.save(_replace_by_integers(graph), path)
        looked_at = OnnxGraph(path)
        uses = {use.use.node: use for use in looked_at.operators() if isinstance(use, Candidate)}
        found = []
        for node in nodes:
            if node not in uses:
                raise PatternError(f"node {node} is no linear layer with a constant weight after quantisation.")
            verified = check_use(looked_at, uses[node])
            if verified.violations:
                raise PatternError(
                    f"node {node}: {verified.violations} of {verified.groups} groups of quantised weights are not 2:4. "
                    "Expected at most two in each that differ from the zero point. Prune before quantising."
                )
            found.append(verified)
    return tuple(found)


def _replace_by_integers(graph: OnnxGraph) -> onnx.ModelProto:
    """Makes a copy of the model with float32 `q − zero_point` in place of dequantised constants.

    An entry that is zero there takes no part in a product. The weights of layers that the front end recognises as
    integers are left, because they are checked as they are stored.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.proto)
    load_tensors(model, graph.path)
    constants = graph.constants
    known = {found.weight for found in graph.operators() if isinstance(found, Candidate) and found.grid is not None}
    nodes = [
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] not in known
        and all(name in constants for name in node.input if name)
    ]
    if not nodes:
        return model
    wanted = [name for node in nodes for name in (node.input[0], *node.input[2:3]) if name]
    values = _evaluate(model, list(dict.fromkeys(wanted)))
    for node in nodes:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        integers = values[node.input[0]].astype(np.int64)
        zero = values[node.input[2]].astype(np.int64) if len(node.input) > 2 and node.input[2] else np.int64(0)  # noqa: PLR2004 (third input)
        spread = _broadcast_zero_point(
            np.asarray(zero), integers.shape, attributes.get("axis", 1), attributes.get("block_size", 0)
        )
        array = (integers - spread).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        model.graph.node.remove(node)
    return model


def _evaluate(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, Array]:
    """Computes values that depend on no input, by name."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    result = {name: numpy_helper.to_array(stored[name]) for name in names if name in stored}
    computed = [name for name in names if name not in stored]
    if not computed:
        return result
    producer = {name: node for node in model.graph.node for name in node.output}
    needed: set[str] = set()
    pending = list(computed)
    while pending:
        name = pending.pop()
        if name and name not in needed:
            needed.add(name)
            pending.extend(producer[name].input if name in producer else ())
    part = onnx.GraphProto(name="constants")
    part.node.extend(node for node in model.graph.node if needed.intersection(node.output))
    part.initializer.extend(stored[name] for name in sorted(needed & set(stored)))
    part.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    proto = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=part)
    fetched = runtime.open_session(proto.SerializeToString()).run(computed, {})
    return result | dict(zip(computed, fetched, strict=True))


def _broadcast_zero_point(zero: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Broadcasts a zero point to the shape of its tensor: one for all, one per slice of an axis, or one per block."""
    if zero.ndim == 0 or zero.size == 1:
        return np.broadcast_to(zero.reshape(()), shape)
    if zero.ndim == 1:
        sizes = [1] * len(shape)
        sizes[axis] = zero.size
        return np.broadcast_to(zero.reshape(sizes), shape)
    return np.repeat(zero, block, axis=axis).take(np.arange(shape[axis]), axis=axis)
