"""Reads the scales and zero points of stored integers behind a DequantizeLinear, or says why they are not pruned."""

import numpy as np
import onnx_ir as ir

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.grid import StoredGrid, StoredRange

INTEGER_TYPES = {ir.DataType.INT8: "int8", ir.DataType.UINT8: "uint8"}  # of weights that are pruned as integers
RANGES = {  # of the integers that a QuantizeLinear makes, by their type
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(1 << 15), (1 << 15) - 1),
    ir.DataType.UINT16: (0, (1 << 16) - 1),
}
SYMMETRIC = -127  # smallest int8 of a weight that does not use −128


def read_grid(
    node: ir.Node,
    stored: ir.TensorProtocol,
    scale: ir.TensorProtocol | None,
    zero: ir.TensorProtocol | None,
) -> StoredGrid | str:
    """Reads what a DequantizeLinear makes of the tensor that it reads.

    Args:
        node: The node.
        stored: The tensor, which the node reads directly.
        scale: Its second operand, where that is stored.
        zero: Its third operand, where there is one and it is stored.

    Returns:
        The grid; or a few words on why the weight is not pruned as it is stored.
    """
    dtype = INTEGER_TYPES.get(stored.dtype)
    if dtype is None:
        return stored.dtype.name.lower()
    if scale is None or (zero is None and len(node.inputs) > 2 and node.inputs[2] is not None):  # noqa: PLR2004 (third input)
        return f"{dtype}, its scale or zero point is computed"
    scales = scale.numpy().reshape(-1)
    zeros = np.zeros(len(scales), np.int32) if zero is None else zero.numpy().reshape(-1).astype(np.int32)
    if (fault := _find_fault(node, stored, scale, zero)) is not None:
        return f"{dtype}, {fault}"
    shape = [1] * len(stored.shape)
    if len(scales) > 1:
        shape[_find_axis(node)] = len(scales)
    lowest = _find_lowest(dtype, stored.numpy(), zeros)
    return StoredGrid(dtype, tuple(scales.tolist()), tuple(zeros.tolist()), tuple(shape), lowest)


def read_range(
    node: ir.Node, sizes: tuple[int, ...], scale: ir.TensorProtocol | None, zero: ir.TensorProtocol | None
) -> StoredRange | None:
    """Reads which floats a QuantizeLinear can hold.

    Args:
        node: The node.
        sizes: The shape of the stored floats, which it reads directly; empty where another operator reads them first.
        scale: Its second operand, where that is stored.
        zero: Its third operand, where there is one and it is stored.

    Returns:
        The range; None where it cannot be told.
    """
    has_zero = len(node.inputs) > 2 and node.inputs[2] is not None  # noqa: PLR2004 (third input)
    asked, blocks = ir.DataType(node.attributes.get_int("output_dtype", 0)), node.attributes.get_int("block_size", 0)
    usual = ir.DataType.UINT8 if asked is ir.DataType.UNDEFINED else asked
    ends = RANGES.get(usual if zero is None else zero.dtype)
    if scale is None or ends is None or (has_zero and zero is None) or blocks:
        return None
    scales = scale.numpy().reshape(-1).astype(np.float64)
    zeros = np.zeros(len(scales)) if zero is None else zero.numpy().reshape(-1).astype(np.float64)
    shape, axis = [1] * len(sizes), _find_axis(node)
    if len(scales) > 1:
        if not -len(sizes) <= axis < len(sizes) or sizes[axis] != len(scales):
            return None
        shape[axis] = len(scales)
    if len(zeros) != len(scales) or not (np.isfinite(scales).all() and (scales > 0).all()):
        return None
    low, high = ((end - zeros) * scales for end in ends)
    return StoredRange(tuple(low.tolist()), tuple(high.tolist()), tuple(shape))


def _find_fault(
    node: ir.Node, stored: ir.TensorProtocol, scale: ir.TensorProtocol, zero: ir.TensorProtocol | None
) -> str | None:
    """Finds what is wrong with scales and zero points for pruning under them, in a few words; None where nothing is."""
    kind = ir.DataType(node.attributes.get_int("output_dtype", 0))
    if scale.dtype is not ir.DataType.FLOAT or kind not in {ir.DataType.UNDEFINED, ir.DataType.FLOAT}:
        return "its scale is no float32"
    sizes, axis = stored.shape.numpy(), _find_axis(node)
    is_slice = len(scale.shape) == 1 and -len(sizes) <= axis < len(sizes) and sizes[axis] == scale.size
    if node.attributes.get_int("block_size", 0) or not (scale.size == 1 or is_slice):
        return "its scales are those of blocks"
    scales = scale.numpy()
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        return "a scale is not a positive number"
    if zero is not None and (zero.size != scale.size or zero.dtype is not stored.dtype):
        return "its zero points do not belong to its scales"
    return None


def _find_axis(node: ir.Node) -> int:
    return node.attributes.get_int("axis", 1)


def _find_lowest(dtype: str, stored: Array, zeros: Array) -> int:
    """Finds the smallest integer that may be stored: −128 only where the file has it, or has another zero point."""
    if dtype == "uint8":
        return 0
    lowest = int(np.iinfo(np.int8).min)
    return lowest if zeros.any() or (stored.size and int(stored.min()) == lowest) else SYMMETRIC
