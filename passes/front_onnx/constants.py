"""Finds the stored constant behind an operand of an ONNX node, through operators that keep or reorder its entries."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from prox24_export.passes.front_onnx.grids import read_grid, read_range
from prox24_export.passes.graph.arrays import find_largest_value
from prox24_export.passes.graph.grid import StoredGrid, StoredRange
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Reason

FLOAT_TYPES = {  # the types of weights, by the names that NumPy and `Linear.dtype` have for them
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.DOUBLE: "float64",
}
ONNX_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
SPARSE = "is a sparse initializer"  # of a value's `meta`: onnx_ir does not read them
COMPUTED = "is computed from constants alone"  # of a value's `meta`: looked up for every operand, found once
RESHAPED = {"Reshape", "Unsqueeze", "Squeeze", "Flatten"}
LAYOUT_ONLY = {"Cast", "Identity", "Transpose", *RESHAPED}
PASSED_THROUGH = {"QuantizeLinear", "DequantizeLinear", *LAYOUT_ONLY}
AXES_AS_INPUT = 2  # inputs of Unsqueeze, Squeeze and Reshape from opset 13, or 5, on


@dataclass(frozen=True)
class ConstantOperand:
    """A constant operand, which layout operators may have changed.

    Attributes:
        root: The stored constant.
        layout: The way from its stored shape to the shape of the operand.
        limit: Largest magnitude that the casts on the way can hold.
        grid: How the stored integers become floats; None where floats are stored.
        ranges: What each QuantizeLinear on the way of stored floats can hold.
    """

    root: ir.Value
    layout: Layout
    limit: float = math.inf
    grid: StoredGrid | None = None
    ranges: tuple[StoredRange, ...] = ()

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The stored tensor."""
        tensor = find_stored_tensor(self.root)
        if tensor is None:
            raise AssertionError(f"{self.root.name} was resolved to a constant that holds no tensor")
        return tensor


@dataclass(frozen=True)
class Refusal:
    """Why an operand is no constant, or why a node stays dense.

    Attributes:
        reason: The reason.
        detail: The figure or the name behind the reason. It may be empty.
        weight: The constant operand, where there is one.
        computed: The value that nodes compute from constants alone, where that is the reason.
    """

    reason: Reason
    detail: str = ""
    weight: ConstantOperand | None = None
    computed: ir.Value | None = None

    @property
    def is_activation(self) -> bool:
        """Whether the operand depends on an input of the model, or is drawn."""
        return self.reason is Reason.NOT_CONSTANT


def find_stored_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """Finds the tensor of an initializer or of a Constant node's `value`; None for any other value."""
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is not None and node.op_type == "Constant" and node.domain in ONNX_DOMAINS and "value" in node.attributes:
        return None if has_references(node) else node.attributes["value"].as_tensor()
    return None


def count_parameters(value: ir.Value) -> int:
    """Counts the entries of a constant that is stored as floats, or as integers that a DequantizeLinear reads."""
    tensor = find_stored_tensor(value)
    if tensor is None:
        return 0
    is_read = any(node.op_type == "DequantizeLinear" and index == 0 for node, index in value.uses())
    return tensor.size if is_read or tensor.dtype in FLOAT_TYPES else 0


def has_references(node: ir.Node) -> bool:
    """Whether an attribute of a node in a function is one that the function is called with, so that it has no value."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def mark_sparse(model: ir.Model, names: Collection[str]) -> None:
    """Marks the values that are sparse initializers, which otherwise look like values from nowhere.

    Args:
        model: The model.
        names: Their names.
    """
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.producer() is None and value.name in names:
                value.meta[SPARSE] = True


def resolve_constant(value: ir.Value | None) -> ConstantOperand | Refusal:
    """Finds the stored constant behind an operand, with its layout; or why there is none.

    The values that nodes compute from constants must be marked: see `dependencies.mark_computed`.
    """
    passed: dict[ir.Value, ir.Node] = {}
    while value is not None and value not in passed and (tensor := find_stored_tensor(value)) is None:
        node = value.producer()
        if SPARSE in value.meta:
            return Refusal(Reason.SPARSE_INITIALIZER)
        if node is None:
            return Refusal(Reason.NOT_CONSTANT)
        is_passed = node.op_type in PASSED_THROUGH and node.domain in ONNX_DOMAINS and node.inputs
        if not is_passed or has_references(node):
            return _refuse_computed(value, node)
        passed[value] = node
        value = node.inputs[0]
    if value is None or value in passed:  # there is none, or nodes read each other in a circle
        return Refusal(Reason.NOT_CONSTANT)
    assert tensor is not None  # noqa: S101 - the loop ends so
    found = ConstantOperand(value, Layout(tuple(int(size) for size in tensor.shape.numpy())))
    for result, node in reversed(passed.items()):
        after = _pass_through(result, node, found)
        if isinstance(after, Refusal):
            return after
        found = after
    return found


def _pass_through(value: ir.Value, node: ir.Node, before: ConstantOperand) -> ConstantOperand | Refusal:
    """Follows a constant operand through one node, which makes `value` of it."""
    match node.op_type:
        case "Cast" if node.attributes.get_int("to", 0) not in FLOAT_TYPES:
            return _refuse_computed(value, node)  # the node reads integers, and not the stored floats
        case "Cast":
            name = FLOAT_TYPES[ir.DataType(node.attributes.get_int("to", 0))]
            return replace(before, limit=min(before.limit, find_largest_value(name)))
        case operator if operator in LAYOUT_ONLY:
            layout = _follow_layout(node, before.layout)
            return replace(before, layout=layout) if layout else _refuse_computed(value, node)
        case "DequantizeLinear" if before.tensor.dtype not in FLOAT_TYPES and before.grid is None:
            return _dequantise(node, before)
        case "QuantizeLinear" if before.tensor.dtype in FLOAT_TYPES:
            sizes = () if before.layout.steps else before.layout.stored
            found = read_range(node, sizes, *_find_scale_and_zero(node))
            return replace(before, ranges=(*before.ranges, *([] if found is None else [found])))
    return before


def _dequantise(node: ir.Node, before: ConstantOperand) -> ConstantOperand | Refusal:
    """Follows stored integers through a DequantizeLinear."""
    name = before.tensor.dtype.name.lower()
    if node.inputs[0] is not before.root:
        return Refusal(Reason.QUANTISED_WEIGHT, f"{name}, another operator reads it first", before)
    grid = read_grid(node, before.tensor, *_find_scale_and_zero(node))
    if isinstance(grid, str):
        return Refusal(Reason.QUANTISED_WEIGHT, grid, before)
    return replace(before, grid=grid)


def _find_scale_and_zero(node: ir.Node) -> tuple[ir.TensorProtocol | None, ir.TensorProtocol | None]:
    """Finds the scale and the zero point of a QuantizeLinear or DequantizeLinear, where they are stored."""
    scale, zero = (
        find_stored_tensor(value) if len(node.inputs) > place and (value := node.inputs[place]) is not None else None
        for place in (1, 2)
    )
    return scale, zero


def _refuse_computed(value: ir.Value, node: ir.Node) -> Refusal:
    if COMPUTED in value.meta:
        return Refusal(Reason.COMPUTED, node.op_type, computed=value)
    is_reshaped = node.op_type in RESHAPED and node.domain in ONNX_DOMAINS
    return Refusal(Reason.NOT_CONSTANT, f"computed by {node.op_type}" if is_reshaped else "")


def _follow_layout(node: ir.Node, before: Layout) -> Layout | None:
    """Follows a layout through a node; None where a value decides that is no constant, or where the shape is none."""
    try:
        if node.op_type == "Transpose":
            default = tuple(reversed(range(len(before.shape))))
            after = before.permute(node.attributes.get_ints("perm", default))
        else:
            target = before.shape if node.op_type == "Identity" else _find_new_shape(node, before.shape)
            if target is None:
                return None
            after = before.reshape(target)
        _ = after.shape  # this fails where the node cannot be run
    except (ValueError, IndexError):
        return None
    return after


def _find_new_shape(node: ir.Node, before: tuple[int, ...]) -> tuple[int, ...] | None:
    """Finds the shape that a node of `RESHAPED` makes of a shape; None where a value decides that is no constant."""
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1)  # a negative one counts from the end, as in a slice
        return math.prod(before[:axis]), math.prod(before[axis:])
    name = "shape" if node.op_type == "Reshape" else "axes"
    is_input = len(node.inputs) == AXES_AS_INPUT and node.inputs[1] is not None
    given = _resolve_integers(node.inputs[1]) if is_input else list(node.attributes.get_ints(name, ()))
    if given is None:
        return None
    example = np.broadcast_to(np.uint8(0), before)
    match node.op_type:
        case "Unsqueeze":
            return np.expand_dims(example, tuple(given)).shape
        case "Squeeze":
            return np.squeeze(example, tuple(given) or None).shape
    if not node.attributes.get_int("allowzero", 0):
        given = [before[axis] if size == 0 else size for axis, size in enumerate(given)]
    return tuple(given)


def _resolve_integers(value: ir.Value | None) -> list[int] | None:
    """Reads constant integers, directly or behind Identity and Cast; None where they are no constant."""
    while value is not None:
        tensor = find_stored_tensor(value)
        if tensor is not None:
            return [int(size) for size in np.ravel(tensor.numpy())]
        node = value.producer()
        if node is not None and node.op_type == "Constant" and "value_ints" in node.attributes:
            if has_references(node):
                return None
            return list(node.attributes["value_ints"].as_ints())
        value = node.inputs[0] if node is not None and node.op_type in {"Identity", "Cast"} else None
    return None
