"""Recognises linear operators in an ONNX graph: which weight, which layout, which activation, or why not."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from prox24_export.passes.graph.activations import Patches, Rows
from prox24_export.passes.graph.arrays import find_largest_value
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Candidate, Reason, Skipped, Use

FLOAT_TYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.DOUBLE: "float64",
}
ONNX_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
REFUSED = {
    "ConvTranspose": Reason.TRANSPOSED_CONV,
    "DeformConv": Reason.DEFORMABLE_CONV,
    "Einsum": Reason.EINSUM,
    "MatMulInteger": Reason.INTEGER_OPERATOR,
    "ConvInteger": Reason.INTEGER_OPERATOR,
    "QLinearConv": Reason.INTEGER_OPERATOR,
    "QLinearMatMul": Reason.INTEGER_OPERATOR,
    "LSTM": Reason.RECURRENT,
    "GRU": Reason.RECURRENT,
    "RNN": Reason.RECURRENT,
}
PASSED_THROUGH = {"Identity", "Transpose", "Reshape", "Cast", "QuantizeLinear", "DequantizeLinear"}
MATRIX = 2  # rank of a matrix


@dataclass(frozen=True)
class _Constant:
    """A constant behind layout operators: `root` is what is stored."""

    root: ir.Value
    layout: Layout
    limit: float = math.inf  # largest magnitude that the casts on the way can hold

    @property
    def tensor(self) -> ir.TensorProtocol:
        tensor = find_stored_tensor(self.root)
        if tensor is None:
            raise AssertionError(f"{self.root.name} was resolved to a constant that holds no tensor")
        return tensor


@dataclass(frozen=True)
class _Refusal:
    reason: Reason
    detail: str = ""
    weight: _Constant | None = None


def find_operators(model: ir.Model, names: Mapping[ir.Node, str]) -> list[Candidate | Skipped]:
    """Every linear-like node of the model, in topological order: main graph, then subgraphs, then functions."""
    functions = {key: _multiplies(function, model) for key, function in model.functions.items()}
    found = {node: verdict for node in model.graph if (verdict := _recognise(node, functions)) is not None}
    uses = {
        (node, index)
        for node, verdict in found.items()
        if isinstance(verdict, _Match)
        for index in [verdict.weight_index]
    }
    result = [_finish(names[node], node, verdict, uses, names) for node, verdict in found.items()]
    result.extend(
        _skip(names[node], node, _Refusal(Reason.IN_SUBGRAPH))
        for node in model.graph.all_nodes()
        if node.graph is not model.graph and _is_linear_like(node)
    )
    for function in model.functions.values():
        for node in function.all_nodes():
            if _is_linear_like(node):
                name = f"{function.name}/{_make_fallback_name(node)}"
                result.append(_skip(name, node, _Refusal(Reason.IN_FUNCTION)))
    return result


def name_nodes(model: ir.Model) -> dict[ir.Node, str]:
    """A unique name for every node: its own, or `Operator:first_output` where it has none or shares it."""
    nodes = list(model.graph.all_nodes())
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.name or ""] = counts.get(node.name or "", 0) + 1
    return {node: node.name if node.name and counts[node.name] == 1 else _make_fallback_name(node) for node in nodes}


def find_stored_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor behind an initializer or a Constant node's `value`; None for anything else."""
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is not None and node.op_type == "Constant" and node.domain in ONNX_DOMAINS and "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    return None


@dataclass(frozen=True)
class _Match:
    weight: _Constant
    weight_index: int
    use_of: int  # index of the activation among the node's inputs
    layout: Layout
    view: Rows | Patches
    group_size: int


def _multiplies(function: ir.Function, model: ir.Model) -> bool:
    """Whether a linear-like node stands in a model-local function, or in one that it calls."""
    called = [model.functions.get(node.op_identifier()) for node in function.all_nodes()]
    inside = any(_multiplies(other, model) for other in called if other is not None)
    return inside or any(map(_is_linear_like, function.all_nodes()))


def _recognise(node: ir.Node, functions: Mapping[ir.OperatorIdentifier, bool]) -> _Match | _Refusal | None:
    multiplies = functions.get(node.op_identifier())
    if multiplies is not None or node.domain not in ONNX_DOMAINS:
        reason = Reason.FUSED_OPERATOR if multiplies is None else Reason.IN_FUNCTION
        weight = None if multiplies is False else _find_largest_constant(node)
        return _Refusal(reason, f"{node.domain}.{node.op_type}", weight) if weight else None
    if node.op_type in REFUSED:
        return _Refusal(REFUSED[node.op_type], weight=_find_largest_constant(node))
    match node.op_type:
        case "MatMul":
            return _recognise_matmul(node)
        case "Gemm":
            return _recognise_gemm(node)
        case "Conv":
            return _recognise_conv(node)
    return None


def _recognise_matmul(node: ir.Node) -> _Match | _Refusal:
    operand = _find_constant_operand(node)
    if isinstance(operand, _Refusal):
        return operand
    constant, side = operand
    shape = constant.layout.shape
    if len(shape) < MATRIX:
        return _Refusal(Reason.VECTOR_WEIGHT, f"shape {list(shape)}", constant)
    if any(size != 1 for size in shape[:-2]):
        return _Refusal(Reason.BATCHED_WEIGHT, f"shape {list(shape)}", constant)
    layout = constant.layout.reshape(shape[-2:])
    if side == 1:
        layout = layout.permute((1, 0))
    return _Match(constant, side, 1 - side, layout, Rows(-1 if side == 1 else -2), layout.shape[1])


def _recognise_gemm(node: ir.Node) -> _Match | _Refusal:
    operand = _find_constant_operand(node)
    if isinstance(operand, _Refusal):
        return operand
    constant, side = operand
    if len(constant.layout.shape) != MATRIX:
        return _Refusal(Reason.VECTOR_WEIGHT, f"shape {list(constant.layout.shape)}", constant)
    trans_a, trans_b = (node.attributes.get_int(name, 0) != 0 for name in ("transA", "transB"))
    # Y = op(A)·op(B): the constant wants [N, K], and the activation's K axis follows from its own flag.
    if side == 1:
        layout = constant.layout if trans_b else constant.layout.permute((1, 0))
        view = Rows(-2 if trans_a else -1)
    else:
        layout = constant.layout.permute((1, 0)) if trans_a else constant.layout
        view = Rows(-1 if trans_b else -2)
    return _Match(constant, side, 1 - side, layout, view, layout.shape[1])


def _recognise_conv(node: ir.Node) -> _Match | _Refusal:
    constant = _resolve(node.inputs[1])
    if isinstance(constant, _Refusal):
        return constant
    if not isinstance(_resolve(node.inputs[0]), _Refusal):
        return _Refusal(Reason.NO_ACTIVATION, weight=constant)
    shape = constant.layout.shape
    groups = node.attributes.get_int("group", 1)
    if groups != 1:
        return _Refusal(Reason.GROUPED_CONV, f"group = {groups}, C_in / group = {shape[1]}", constant)
    spatial = len(shape) - 2
    layout = constant.layout.permute((0, *range(2, 2 + spatial), 1)).reshape((shape[0], -1))
    view = Patches(
        kernel=shape[2:],
        strides=tuple(node.attributes.get_ints("strides", (1,) * spatial)),
        dilations=tuple(node.attributes.get_ints("dilations", (1,) * spatial)),
        pads=tuple(node.attributes.get_ints("pads", (0,) * 2 * spatial)),
        auto_pad=node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
    )
    return _Match(constant, 1, 0, layout, view, shape[1])


def _find_constant_operand(node: ir.Node) -> tuple[_Constant, int] | _Refusal:
    """The one constant among a product's two operands, and which of them it is."""
    left, right = (_resolve(value) for value in node.inputs[:2])
    if isinstance(right, _Constant):
        return _Refusal(Reason.NO_ACTIVATION, weight=right) if isinstance(left, _Constant) else (right, 1)
    if isinstance(left, _Constant):
        return left, 0
    told = [side for side in (right, left) if side.reason is not Reason.NOT_CONSTANT or side.detail]
    return told[0] if told else _Refusal(Reason.NOT_CONSTANT, "both operands are activations")


def _resolve(value: ir.Value | None) -> _Constant | _Refusal:  # noqa: C901, PLR0911 (one case per operator)
    """The stored constant behind `value` and the layout of what the node sees, or why there is none."""
    if value is None:
        return _Refusal(Reason.NOT_CONSTANT)
    tensor = find_stored_tensor(value)
    if tensor is not None:
        return _Constant(value, Layout(tuple(int(size) for size in tensor.shape.numpy())))
    node = value.producer()
    if node is None or node.domain not in ONNX_DOMAINS:
        return _Refusal(Reason.NOT_CONSTANT)
    if node.op_type not in PASSED_THROUGH:
        return _Refusal(Reason.NOT_CONSTANT, _describe_computed(node))
    before = _resolve(node.inputs[0])
    if isinstance(before, _Refusal):
        return before
    match node.op_type:
        case "Cast" if node.attributes.get_int("to", 0) not in FLOAT_TYPES:
            return _refuse_computed(node)  # what is read are integers, not the stored float
        case "Cast":
            name = FLOAT_TYPES[ir.DataType(node.attributes.get_int("to", 0))]
            return replace(before, limit=min(before.limit, find_largest_value(name)))
        case "Transpose":
            default = tuple(reversed(range(len(before.layout.shape))))
            return replace(before, layout=before.layout.permute(node.attributes.get_ints("perm", default)))
        case "Reshape":
            target = _find_reshape_target(node, before.layout.shape)
            return replace(before, layout=before.layout.reshape(target)) if target else _refuse_computed(node)
        case "DequantizeLinear" if before.tensor.dtype not in FLOAT_TYPES:
            return _Refusal(Reason.QUANTISED_WEIGHT, before.tensor.dtype.name.lower(), before)
    return before


def _refuse_computed(node: ir.Node) -> _Refusal:
    return _Refusal(Reason.NOT_CONSTANT, f"computed by {node.op_type}")


def _describe_computed(node: ir.Node) -> str:
    """Names the operator where the value is computed from constants alone; empty for an activation."""
    ancestors, pending = set(), [node]
    while pending:
        here = pending.pop()
        if here in ancestors:
            continue
        ancestors.add(here)
        for value in here.inputs:
            if value is None or find_stored_tensor(value) is not None:
                continue
            producer = value.producer()
            if producer is None:
                return ""
            pending.append(producer)
    return f"computed by {node.op_type}"


def _find_reshape_target(node: ir.Node, before: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(node.inputs) == 1:  # before opset 5
        sizes = list(node.attributes.get_ints("shape", ()))
    else:
        target = _resolve_shape(node.inputs[1])
        if target is None:
            return None
        sizes = target
    if not node.attributes.get_int("allowzero", 0):
        sizes = [before[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return tuple(sizes)


def _resolve_shape(value: ir.Value | None) -> list[int] | None:
    """The integers of a constant shape, directly or behind Identity and Cast."""
    while value is not None:
        tensor = find_stored_tensor(value)
        if tensor is not None:
            return [int(size) for size in np.ravel(tensor.numpy())]
        node = value.producer()
        if node is not None and node.op_type == "Constant" and "value_ints" in node.attributes:
            return list(node.attributes["value_ints"].as_ints())
        value = node.inputs[0] if node is not None and node.op_type in {"Identity", "Cast"} else None
    return None


def _finish(
    name: str,
    node: ir.Node,
    verdict: "_Match | _Refusal",
    uses: set[tuple[ir.Node, int]],
    names: Mapping[ir.Node, str],
) -> Candidate | Skipped:
    if isinstance(verdict, _Refusal):
        return _skip(name, node, verdict)
    constant = verdict.weight
    dtype = FLOAT_TYPES.get(constant.tensor.dtype)
    if dtype is None:
        return _skip(name, node, _Refusal(Reason.WEIGHT_TYPE, constant.tensor.dtype.name.lower(), constant))
    refusal = _find_other_reader(constant, uses, names)
    if refusal is not None:
        return _skip(name, node, refusal)
    activation = node.inputs[verdict.use_of]
    if activation is None:
        return _skip(name, node, _Refusal(Reason.NO_ACTIVATION, weight=constant))
    is_product = verdict.weight_index == 1 and node.attributes.get_float("alpha", 1.0) == 1.0
    residual = _find_residual(node) if is_product else None
    use = Use(name, str(activation.name), verdict.view, residual)
    return Candidate(
        use, node.op_type, str(constant.root.name), dtype, verdict.layout, verdict.group_size, constant.limit
    )


def _find_residual(node: ir.Node) -> str | None:
    """The activation that an Add joins to the node's result, past constant biases: a residual branch."""
    value = node.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        ((reader, index),) = value.uses()
        if reader.op_type != "Add" or reader.graph is not node.graph:
            return None
        other = reader.inputs[1 - index]
        if other is None or not isinstance(_resolve(other), _Constant):
            return None if other is None else other.name
        value = reader.outputs[0]
    return None


def _find_other_reader(
    constant: _Constant, uses: set[tuple[ir.Node, int]], names: Mapping[ir.Node, str]
) -> _Refusal | None:
    """Why the weight cannot change although this node could use the pruned one, or None."""
    main = constant.root.graph or constant.root.producer().graph  # type: ignore[union-attr]
    pending = [constant.root]
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            return _Refusal(Reason.IS_GRAPH_OUTPUT, weight=constant)
        for node, index in value.uses():
            if node.graph is not main:
                return _Refusal(Reason.READ_IN_SUBGRAPH, weight=constant)
            if (node, index) in uses:
                continue
            if index == 0 and node.op_type in PASSED_THROUGH and node.domain in ONNX_DOMAINS:
                pending.append(node.outputs[0])
            elif index == 0 and node.op_type == "Gather":
                return _Refusal(Reason.TIED_TO_EMBEDDING, names[node], constant)
            else:
                return _Refusal(Reason.READ_ELSEWHERE, f"{node.op_type} {names[node]}", constant)
    return None


def _skip(name: str, node: ir.Node, refusal: _Refusal) -> Skipped:
    weight = refusal.weight or _find_largest_constant(node)
    if weight is None:
        return Skipped(name, node.op_type, None, None, None, 0, refusal.reason, refusal.detail)
    k, n = _find_dimensions(node, weight)
    size = math.prod(weight.layout.stored)
    return Skipped(name, node.op_type, weight.root.name, k, n, size, refusal.reason, refusal.detail)


def _find_dimensions(node: ir.Node, weight: _Constant) -> tuple[int | None, int | None]:
    """(K, N) as far as the operator tells them; a fused vendor operator is read as what it was fused from."""
    shape = weight.layout.shape
    if len(shape) < MATRIX:
        return None, None
    match node.op_type.removeprefix("Fused"):
        case "Conv" | "QLinearConv" | "ConvInteger" | "DeformConv":
            return math.prod(shape[1:]), shape[0]
        case "ConvTranspose":
            groups = node.attributes.get_int("group", 1)
            return shape[0] * math.prod(shape[2:]) // groups, shape[1] * groups
        case "MatMul" | "MatMulInteger" | "QLinearMatMul" | "Gemm":
            first = _resolve_quantised(node.inputs[0])
            is_left = first is not None and first.root is weight.root
            transposed = node.attributes.get_int("transA" if is_left else "transB", 0) != 0
            return (shape[-1], shape[-2]) if is_left != transposed else (shape[-2], shape[-1])
    return None, None


def _find_largest_constant(node: ir.Node) -> _Constant | None:
    """The largest constant operand with at least two dimensions."""
    constants = [side for side in map(_resolve_quantised, node.inputs) if side and len(side.layout.shape) >= MATRIX]
    return max(constants, key=lambda side: math.prod(side.layout.stored), default=None)


def _resolve_quantised(value: ir.Value | None) -> _Constant | None:
    side = _resolve(value)
    return side.weight if isinstance(side, _Refusal) else side


def _is_linear_like(node: ir.Node) -> bool:
    if node.domain not in ONNX_DOMAINS:
        return _find_largest_constant(node) is not None
    return node.op_type in REFUSED or node.op_type in {"MatMul", "Gemm", "Conv"}


def _make_fallback_name(node: ir.Node) -> str:
    output: Iterator[str] = (str(value.name) for value in node.outputs if value.name)
    return f"{node.op_type}:{next(output, '')}"
