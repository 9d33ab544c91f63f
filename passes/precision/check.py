"""Checks a file in a lower precision: its pattern, the types of its weights, its interface, and finite values."""

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
    """The model cannot be converted to a lower precision in the way that was asked for."""


def verify_lowered(
    final: OnnxGraph, linears: Sequence[Linear], precision: LowPrecision, kept: Mapping[str, str]
) -> tuple[VerifiedUse, ...]:
    """Checks that every use of the layers is 2:4 in the converted file, with a weight that is stored in the low type.

    A float32 weight behind a `Cast` would give the same numbers, but then no sparse kernel is sure to be used.

    Args:
        final: The converted file, read again.
        linears: The pruned layers of the source.
        precision: The low type.
        kept: The nodes that stay in float32, by name, each with its reason.

    Returns:
        Every use that was checked.

    Raises:
        PatternError: A use is missing or not 2:4.
        PrecisionError: A weight is not stored in the low type, and its node is none of those that stay in float32.
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
    """Checks that the inputs and outputs of the converted model have the names, order and types of the source.

    Raises:
        PrecisionError: A name, the order or a type is another.
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
    """Checks that no value is NaN or Inf that was finite in float32.

    Args:
        final: The converted model.
        after: The values that were observed in it.
        before: The values that were observed in the float32 model, on the same feeds.

    Raises:
        PrecisionError: A value is NaN or Inf only in the converted model; the message names the first such node.
    """
    producer = {name: node for node in final.nodes for name in node.outputs}
    harmless = {*before.masks} | {name for name, found in before.ranges.items() if not found.finite}
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
    """Measures `‖low − float32‖ / ‖float32‖` of each float output over all feeds, by name of the output.

    Entries that are the same NaN or Inf in both are left out. Where shapes differ, or only one side is NaN or Inf, the
    result is inf.

    Args:
        before: The values that were observed in the float32 model.
        after: The values that were observed in the converted model, on the same feeds.
    """
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
    """Sums the squares of the difference and of `one` over entries that are finite in both.

    It is (inf, 1) where shapes differ, or where only one of both is NaN or Inf.
    """
    if one.shape != other.shape:  # its size depends on the data, as that of detections does
        return np.inf, 1.0
    left, right = one.astype(np.float64), other.astype(np.float64)
    alike = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~alike], right[~alike], equal_nan=True):
        return np.inf, 1.0
    return float(np.square(left[alike] - right[alike]).sum()), float(np.square(left[alike]).sum())
