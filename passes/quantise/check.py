"""Checks a quantised file: 2:4 on the integers, symmetric integers, scales, opset, interface and finite outputs."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.precision.check import PrecisionError, verify_interface
from prox24_export.passes.precision.quantised import verify_quantised
from prox24_export.passes.quantise.outputs import Outputs
from prox24_export.passes.quantise.placement import Placement
from prox24_export.passes.quantise.prepare import FIRST_OPSET
from prox24_export.passes.quantise.scales import LAST
from prox24_export.passes.verify_pattern import VerifiedUse

QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}


def verify_file(
    source: OnnxGraph, final: OnnxGraph, places: Placement, linears: Sequence[Linear]
) -> tuple[VerifiedUse, ...]:
    """Checks the file that was written, read again.

    Args:
        source: The float model.
        final: The quantised file.
        places: What was to be quantised.
        linears: The pruned layers of the source.

    Returns:
        Every use of a pruned weight that was checked.

    Raises:
        PatternError: More than two integers of a group of four differ from zero.
        PrecisionError: An input or output has another type; the opset is below 13; a weight is not stored as symmetric
            int8 integers behind DequantizeLinear; a scale is not a positive number; or a zero point is not 0.
    """
    verify_interface(source.proto, final.proto)
    opset = next((entry.version for entry in final.proto.opset_import if entry.domain in ONNX_DOMAINS), 1)
    if opset < FIRST_OPSET:
        raise PrecisionError(
            f"the quantised file has opset {opset}. Expected {FIRST_OPSET} or later. Please report it."
        )
    producers = {name: node for node in final.proto.graph.node for name in node.output}
    for node in final.proto.graph.node:
        if node.op_type in QUANTISERS and set(node.input) & final.constants:
            _verify_constants(final, node)
    nodes = {node.name: node for node in final.proto.graph.node}
    for weight in places.weights.values():
        for name in weight.nodes:
            _verify_weight(final, producers, nodes[name], weight.axis)
    for name, readers in places.readers.items():
        for reader, index in readers:
            behind = producers.get(nodes[reader].input[index])
            if behind is None or behind.op_type != "DequantizeLinear":
                raise PrecisionError(f"{reader} reads {name} in float. Expected DequantizeLinear. Please report this.")
    return verify_quantised(final, [use.node for linear in linears for use in linear.uses])


def verify_outputs(before: Outputs, after: Outputs) -> None:
    """Checks that no output entry is NaN or Inf that is finite in float32.

    Raises:
        PrecisionError: An entry is.
    """
    for one, other in zip(before, after, strict=True):
        for name, value in one.items():
            if value.dtype.kind == "f" and value.shape == other[name].shape:
                worse = np.isfinite(value) & ~np.isfinite(other[name])
                if worse.any():
                    raise PrecisionError(
                        f"{int(worse.sum())} entries of output {name} are NaN or Inf in INT8 and finite in float32. "
                        "Give more calibration data, or use --precision bf16."
                    )


def _verify_constants(final: OnnxGraph, node: onnx.NodeProto) -> None:
    scale = final.stored(node.input[1])
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise PrecisionError(f"a scale of {node.name} is not a positive number. Please report this.")
    if len(node.input) > 2 and final.stored(node.input[2]).any():  # noqa: PLR2004 (the third input)
        raise PrecisionError(f"the zero point of {node.name} is not 0. Please report this.")


def _verify_weight(final: OnnxGraph, producers: Mapping[str, onnx.NodeProto], node: onnx.NodeProto, axis: int) -> None:
    """Checks that a node multiplies by stored symmetric integers with one scale per output channel."""
    behind = producers.get(node.input[1])
    while behind is not None and behind.op_type != "DequantizeLinear" and behind.input:
        behind = producers.get(behind.input[0])
    if behind is None or behind.input[0] not in final.constants:
        raise PrecisionError(f"{node.name} multiplies by a weight that is not stored as int8. Please report this.")
    integers, scale = final.stored(behind.input[0]), final.stored(behind.input[1])
    along = {attribute.name: attribute.i for attribute in behind.attribute}.get("axis", 1)
    if integers.dtype != np.int8 or scale.shape != (integers.shape[axis],) or along != axis:
        raise PrecisionError(
            f"the weight of {node.name} is {integers.dtype} {list(integers.shape)} with scales {list(scale.shape)} "
            f"along axis {along}. Expected int8 with one scale for each entry of axis {axis}."
        )
    if int(integers.min(initial=0)) < -LAST:
        raise PrecisionError(f"the weight of {node.name} holds −128. Expected −{LAST} to {LAST}.")
