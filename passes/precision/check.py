"""What must hold of a file in a lower precision: the pattern, where the weights are, the interface, finite values."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from prox24_export.errors import Prox24Error
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Candidate, Linear
from prox24_export.passes.precision.ranges import ObservedValues
from prox24_export.passes.precision.types import LowPrecision
from prox24_export.passes.verify_pattern import VerifiedUse, VerifyPattern


class PrecisionError(Prox24Error):
    """The model cannot be had in a lower precision as it is asked for."""


def verify_lowered(
    final: OnnxGraph, linears: Sequence[Linear], precision: LowPrecision, kept: Mapping[str, str]
) -> tuple[VerifiedUse, ...]:
    """Every use of `linears` is 2:4 in the converted file, and reads a weight that is stored in the low type.

    A float32 weight behind a `Cast` computes the same, but no sparse kernel is sure to take it.

    Raises:
        PatternError: A use is missing or not 2:4.
        PrecisionError: A weight is not stored in the low type although its node is not one of `kept`.
    """
    wanted = {linear.weight for linear in linears}
    uses = {use.label for linear in linears for use in linear.uses}
    candidates = [found for found in final.operators() if isinstance(found, Candidate)]
    at_uses = [found for found in candidates if found.use.label in uses]
    for found in at_uses:
        node = found.use.node
        is_cast = np.isfinite(found.limit)
        if node not in kept and (found.dtype != precision.word or is_cast):
            how = "behind a Cast" if is_cast else "directly"
            raise PrecisionError(
                f"weight {found.weight} at node {node} is stored as {found.dtype}, {how}. Expected {precision.word} "
                "with no Cast in front of the node: with it no sparse kernel is sure to be used. Please report this."
            )
    renamed = {found.weight for found in at_uses} - wanted  # one weight, read in two types, is stored twice
    also = [replace(linears[0], weight=name, uses=()) for name in sorted(renamed)] if linears else []
    return VerifyPattern().call(graph=final, linears=[*linears, *also]).uses


def verify_interface(source: onnx.ModelProto, final: onnx.ModelProto) -> None:
    """Inputs and outputs have the names, the order and the types that they had.

    Raises:
        PrecisionError: They do not.
    """
    stored = {tensor.name for tensor in (*source.graph.initializer, *final.graph.initializer)}
    for side in ("input", "output"):
        before, after = (
            [
                (value.name, value.type.tensor_type.elem_type)
                for value in getattr(model.graph, side)
                if side == "output" or value.name not in stored
            ]
            for model in (source, final)
        )
        if before != after:
            raise PrecisionError(f"the {side}s were {before} and became {after} on conversion. Please report this.")


def verify_finite(final: OnnxGraph, after: ObservedValues, before: ObservedValues) -> None:
    """No value is NaN or Inf that was finite in float32.

    Args:
        final: The converted model.
        after: What was seen of it.
        before: What was seen of the float32 model, on the same feeds.

    Raises:
        PrecisionError: One is; names the first node.
    """
    producer = {name: node for node in final.nodes for name in node.outputs}
    harmless = {name for name, found in before.ranges.items() if not found.finite}
    casts = {node.inputs[0]: node.outputs[0] for node in final.nodes if node.op == "Cast"}
    for name, found in after.ranges.items():
        node = producer.get(name)
        if found.finite or name in harmless or node is None:
            continue
        if name not in before.ranges and (harmless.intersection(node.inputs) or casts.get(name) in harmless):
            harmless.add(name)  # new here: a cast of an infinity of the float32 model, or what is cast to it
            continue
        raise PrecisionError(
            f"in lower precision node {node.name} ({node.op}) is the first with NaN or Inf where float32 has none. "
            "Keep it in float32, give more calibration data, or use bf16, which has the range of float32."
        )


def measure_differences(before: ObservedValues, after: ObservedValues) -> dict[str, float]:
    """By float output: `‖low − float32‖ / ‖float32‖` over all feeds; entries that both have as NaN or Inf left out."""
    noise: dict[str, float] = {}
    signal: dict[str, float] = {}
    for one, other in zip(before.outputs, after.outputs, strict=True):
        for name in one:
            if one[name].dtype.kind == "f":
                difference, size = _measure_energy(one[name], other[name])
                noise[name] = noise.get(name, 0.0) + difference
                signal[name] = signal.get(name, 0.0) + size
    return {name: _divide(noise[name], signal[name]) for name in noise}


def _divide(noise: float, signal: float) -> float:
    if signal:
        return float(np.sqrt(noise / signal))
    return np.inf if noise else 0.0


def _measure_energy(one: Array, other: Array) -> tuple[float, float]:
    if one.shape != other.shape:  # its size depends on the data, as that of detections does
        return np.inf, 1.0
    left, right = one.astype(np.float64), other.astype(np.float64)
    alike = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~alike], right[~alike], equal_nan=True):
        return np.inf, 1.0
    return float(np.square(left[alike] - right[alike]).sum()), float(np.square(left[alike]).sum())
