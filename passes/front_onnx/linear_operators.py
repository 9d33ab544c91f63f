"""Recognises the linear operators of an ONNX graph: their weight, layout and activation, or why they stay dense."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from prox24_export.passes.front_onnx.constants import (
    FLOAT_TYPES,
    ONNX_DOMAINS,
    PASSED_THROUGH,
    SPARSE,
    ConstantOperand,
    Refusal,
    has_references,
    resolve_constant,
)
from prox24_export.passes.front_onnx.dependencies import find_functions
from prox24_export.passes.graph.activations import Patches, Rows
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Candidate, Reason, Skipped, Use

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
MULTIPLY = {"MatMul": (1, 0), "Gemm": (1, 0), "Conv": (1,), "ConvTranspose": (1,)}  # inputs that may be the weight
OPERANDS = {"LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "DeformConv": (1,), **MULTIPLY}  # not bias, state or offset
MATRIX = 2  # rank of a matrix
Shapes = Callable[[], Mapping[str, tuple[int, ...]]]


def find_operators(model: ir.Model, names: Mapping[ir.Node, str], shapes: Shapes) -> list[Candidate | Skipped]:
    """Recognises every linear-like node of a model.

    Args:
        model: The model.
        names: Name of every node of the main graph.
        shapes: Infers the shapes of the constants that the main graph computes; asked only where there is one.

    Returns:
        In topological order the nodes of the main graph, then those of subgraphs, then those of functions.
    """
    multiplying = find_functions(model, _is_linear_like)
    functions = {key: key in multiplying for key in model.functions}
    found = {node: verdict for node in model.graph if (verdict := _recognise(node, functions)) is not None}
    uses = {
        (node, index)
        for node, verdict in found.items()
        if isinstance(verdict, _Match)
        for index in [verdict.weight_index]
    }
    result = [_finish(names[node], node, verdict, uses, names) for node, verdict in found.items()]
    if any(isinstance(layer, Skipped) and layer.k is None and layer.op in MULTIPLY for layer in result):
        inferred = shapes()
        result = [_find_inferred(layer, node, inferred) for layer, node in zip(result, found, strict=True)]
    result.extend(
        _skip(names[node], node, Refusal(Reason.IN_SUBGRAPH))
        for node in model.graph.all_nodes()
        if node.graph is not model.graph and _is_linear_like(node)
    )
    for function in model.functions.values():
        for node in function.all_nodes():
            if _is_linear_like(node):
                name = f"{function.name}/{_make_fallback_name(node)}"
                result.append(_skip(name, node, Refusal(Reason.IN_FUNCTION)))
    return result


def name_nodes(model: ir.Model) -> dict[ir.Node, str]:
    """Gives every node a unique name: its own, or `Operator:first_output` where it has none or shares it."""
    nodes = list(model.graph.all_nodes())
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.name or ""] = counts.get(node.name or "", 0) + 1
    return {node: node.name if node.name and counts[node.name] == 1 else _make_fallback_name(node) for node in nodes}


@dataclass(frozen=True)
class _Match:
    """A node that multiplies by a constant weight.

    Attributes:
        weight: The constant operand.
        weight_index: Its index among the node's inputs.
        use_of: Index of the activation among the node's inputs.
        layout: How the stored weight becomes `W` [N, K].
        view: How the activation becomes a matrix [tokens, K].
        group_size: Number of entries that are contiguous along K.
    """

    weight: ConstantOperand
    weight_index: int
    use_of: int
    layout: Layout
    view: Rows | Patches
    group_size: int


def _recognise(node: ir.Node, functions: Mapping[ir.OperatorIdentifier, bool]) -> _Match | Refusal | None:
    multiplies = functions.get(node.op_identifier())
    if multiplies is not None or node.domain not in ONNX_DOMAINS:
        reason = Reason.FUSED_OPERATOR if multiplies is None else Reason.IN_FUNCTION
        weight = None if multiplies is False else _find_largest_constant(node)
        return Refusal(reason, f"{node.domain}.{node.op_type}", weight) if weight else None
    if node.op_type in REFUSED:
        return Refusal(REFUSED[node.op_type], weight=_find_largest_constant(node))
    match node.op_type:
        case "MatMul":
            return _recognise_matmul(node)
        case "Gemm":
            return _recognise_gemm(node)
        case "Conv":
            return _recognise_conv(node)
    return None


def _recognise_matmul(node: ir.Node) -> _Match | Refusal:
    operand = _find_constant_operand(node)
    if isinstance(operand, Refusal):
        return operand
    constant, side = operand
    shape = constant.layout.shape
    if len(shape) < MATRIX:
        return Refusal(Reason.VECTOR_WEIGHT, f"shape {list(shape)}", constant)
    if any(size != 1 for size in shape[:-2]):
        return Refusal(Reason.BATCHED_WEIGHT, f"shape {list(shape)}", constant)
    layout = constant.layout.reshape(shape[-2:])
    if side == 1:
        layout = layout.permute((1, 0))
    return _Match(constant, side, 1 - side, layout, Rows(-1 if side == 1 else -2), layout.shape[1])


def _recognise_gemm(node: ir.Node) -> _Match | Refusal:
    operand = _find_constant_operand(node)
    if isinstance(operand, Refusal):
        return operand
    constant, side = operand
    if len(constant.layout.shape) != MATRIX:
        return Refusal(Reason.VECTOR_WEIGHT, f"shape {list(constant.layout.shape)}", constant)
    trans_a, trans_b = (node.attributes.get_int(name, 0) != 0 for name in ("transA", "transB"))
    # Y = op(A)·op(B): the constant wants [N, K], and the activation's K axis follows from its own flag.
    if side == 1:
        layout = constant.layout if trans_b else constant.layout.permute((1, 0))
        view = Rows(-2 if trans_a else -1)
    else:
        layout = constant.layout.permute((1, 0)) if trans_a else constant.layout
        view = Rows(-1 if trans_b else -2)
    return _Match(constant, side, 1 - side, layout, view, layout.shape[1])


def _recognise_conv(node: ir.Node) -> _Match | Refusal:
    constant = resolve_constant(node.inputs[1])
    if isinstance(constant, Refusal):
        return constant
    if not isinstance(resolve_constant(node.inputs[0]), Refusal):
        return Refusal(Reason.NO_ACTIVATION, weight=constant)
    shape = constant.layout.shape
    if len(shape) < MATRIX:
        return Refusal(Reason.VECTOR_WEIGHT, f"shape {list(shape)}", constant)
    groups = node.attributes.get_int("group", 1)
    if groups != 1:
        return Refusal(Reason.GROUPED_CONV, f"group = {groups}, C_in / group = {shape[1]}", constant)
    spatial = len(shape) - 2
    layout = constant.layout.permute((0, *range(2, 2 + spatial), 1)).reshape((shape[0], math.prod(shape[1:])))
    view = Patches(
        kernel=shape[2:],
        strides=tuple(node.attributes.get_ints("strides", (1,) * spatial)),
        dilations=tuple(node.attributes.get_ints("dilations", (1,) * spatial)),
        pads=tuple(node.attributes.get_ints("pads", (0,) * 2 * spatial)),
        auto_pad=node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
    )
    return _Match(constant, 1, 0, layout, view, shape[1])


def _find_constant_operand(node: ir.Node) -> tuple[ConstantOperand, int] | Refusal:
    """Finds the one constant among the two operands of a product, and its index; or why there is none."""
    left, right = (resolve_constant(value) for value in node.inputs[:2])
    if isinstance(right, ConstantOperand):
        return Refusal(Reason.NO_ACTIVATION, weight=right) if isinstance(left, ConstantOperand) else (right, 1)
    if isinstance(left, ConstantOperand):
        return left, 0
    if left.reason is right.reason is Reason.COMPUTED:
        return Refusal(Reason.NO_ACTIVATION)
    told = [side for side in (right, left) if not side.is_activation or side.detail]
    return told[0] if told else Refusal(Reason.NOT_CONSTANT, "both operands are activations")


def _finish(
    name: str,
    node: ir.Node,
    verdict: "_Match | Refusal",
    uses: set[tuple[ir.Node, int]],
    names: Mapping[ir.Node, str],
) -> Candidate | Skipped:
    if isinstance(verdict, Refusal):
        return _skip(name, node, verdict)
    constant = verdict.weight
    dtype = FLOAT_TYPES.get(constant.tensor.dtype) if constant.grid is None else constant.grid.dtype
    if dtype is None:
        return _skip(name, node, Refusal(Reason.WEIGHT_TYPE, constant.tensor.dtype.name.lower(), constant))
    refusal = _find_other_reader(constant, uses, names)
    if refusal is not None:
        return _skip(name, node, refusal)
    activation = node.inputs[verdict.use_of]
    if activation is None:
        return _skip(name, node, Refusal(Reason.NO_ACTIVATION, weight=constant))
    is_product = verdict.weight_index == 1 and node.attributes.get_float("alpha", 1.0) == 1.0
    residual = _find_residual(node) if is_product else None
    use = Use(name, str(activation.name), verdict.view, residual)
    return Candidate(
        use,
        node.op_type,
        str(constant.root.name),
        dtype,
        verdict.layout,
        verdict.group_size,
        constant.limit,
        () if constant.grid is None else (f"its {dtype} integers are pruned, under the scales of the file",),
        constant.grid,
        constant.ranges,
    )


def _find_residual(node: ir.Node) -> str | None:
    """Finds the name of the residual branch: the activation that an Add joins to the result, past constant biases."""
    value = node.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        ((reader, index),) = value.uses()
        if reader.op_type != "Add" or reader.domain not in ONNX_DOMAINS or reader.graph is not node.graph:
            return None
        other = reader.inputs[1 - index]
        if other is None:
            return None
        if isinstance(bias := resolve_constant(other), Refusal) and bias.is_activation:
            return other.name
        value = reader.outputs[0]
    return None


def _find_other_reader(
    constant: ConstantOperand, uses: set[tuple[ir.Node, int]], names: Mapping[ir.Node, str]
) -> Refusal | None:
    """Finds another reader of a weight, for which it cannot change; None where there is none."""
    main = constant.root.graph or constant.root.producer().graph  # type: ignore[union-attr]
    pending = [constant.root]
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            return Refusal(Reason.IS_GRAPH_OUTPUT, weight=constant)
        for node, index in value.uses():
            if node.graph is not main:
                return Refusal(Reason.READ_IN_SUBGRAPH, weight=constant)
            if (node, index) in uses:
                continue
            if index == 0 and node.op_type in PASSED_THROUGH and node.domain in ONNX_DOMAINS:
                pending.append(node.outputs[0])
            elif index == 0 and node.op_type == "Gather":
                return Refusal(Reason.TIED_TO_EMBEDDING, names[node], constant)
            else:
                return Refusal(Reason.READ_ELSEWHERE, f"{node.op_type} {names[node]}", constant)
    return None


def _skip(name: str, node: ir.Node, refusal: Refusal) -> Skipped:
    weight = refusal.weight or _find_largest_constant(node)
    if weight is None:
        return Skipped(name, node.op_type, None, None, None, 0, refusal.reason, refusal.detail)
    first = _resolve_quantised(node.inputs[0])
    k, n = _find_dimensions(node, weight.layout.shape, is_left=first is not None and first.root is weight.root)
    size = math.prod(weight.layout.stored)
    return Skipped(name, node.op_type, weight.root.name, k, n, size, refusal.reason, refusal.detail)


def _find_inferred(
    layer: Candidate | Skipped, node: ir.Node, shapes: Mapping[str, tuple[int, ...]]
) -> Candidate | Skipped:
    """Finds (K, N) of a layer whose weight is computed, or stored sparsely, by the inferred shapes of constants."""
    if isinstance(layer, Candidate) or layer.k is not None:
        return layer
    for index in MULTIPLY.get(layer.op, ()):
        value = node.inputs[index]
        shape = None if value is None else shapes.get(str(value.name))
        if value is not None and shape is not None:
            k, n = _find_dimensions(node, shape, is_left=index == 0)
            if SPARSE in value.meta:
                return replace(layer, weight=value.name, k=k, n=n, parameters=math.prod(shape))
            return replace(layer, k=k, n=n)
    return layer


def _find_dimensions(node: ir.Node, shape: tuple[int, ...], *, is_left: bool) -> tuple[int | None, int | None]:
    """Finds (K, N) as far as the operator tells them. A fused vendor operator is read as what it was fused from.

    Args:
        node: The node.
        shape: The shape of its weight.
        is_left: Whether the weight is its first operand.
    """
    if len(shape) < MATRIX or has_references(node):
        return None, None
    match node.op_type.removeprefix("Fused"):
        case "Conv" | "QLinearConv" | "ConvInteger" | "DeformConv":
            return math.prod(shape[1:]), shape[0]
        case "ConvTranspose":
            groups = max(1, node.attributes.get_int("group", 1))
            return shape[0] * math.prod(shape[2:]) // groups, shape[1] * groups
        case "MatMul" | "MatMulInteger" | "QLinearMatMul" | "Gemm":
            transposed = node.attributes.get_int("transA" if is_left else "transB", 0) != 0
            return (shape[-1], shape[-2]) if is_left != transposed else (shape[-2], shape[-1])
    return None, None


def _find_largest_constant(node: ir.Node) -> ConstantOperand | None:
    """Finds the largest constant with at least two dimensions that a node multiplies by; None where there is none."""
    places = OPERANDS.get(node.op_type) if node.domain in ONNX_DOMAINS else None
    values = [value for place, value in enumerate(node.inputs) if places is None or place in places]
    constants = [side for side in map(_resolve_quantised, values) if side and len(side.layout.shape) >= MATRIX]
    return max(constants, key=lambda side: math.prod(side.layout.stored), default=None)


def _resolve_quantised(value: ir.Value | None) -> ConstantOperand | None:
    side = resolve_constant(value)
    return side.weight if isinstance(side, Refusal) else side


def _is_linear_like(node: ir.Node) -> bool:
    if node.domain not in ONNX_DOMAINS:
        return _find_largest_constant(node) is not None
    return node.op_type in REFUSED or node.op_type in {"MatMul", "Gemm", "Conv"}


def _make_fallback_name(node: ir.Node) -> str:
    output: Iterator[str] = (str(value.name) for value in node.outputs if value.name)
    return f"{node.op_type}:{next(output, '')}"
