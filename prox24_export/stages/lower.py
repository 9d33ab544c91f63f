"""Both finished models as ONNX files in the precision that engines compute in, and what the conversion costs."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from prox24_export.errors import Prox24Error
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Linear
from prox24_export.passes.precision.lower import Lowered, LowerPrecision
from prox24_export.passes.precision.ranges import observe
from prox24_export.passes.precision.types import LowPrecisionName
from prox24_export.results.report import AccuracyReport
from prox24_export.validation import accuracy

CALIBRATION_BATCHES = 4  # that ranges of values are taken from
MOST_ROUNDS = 4  # until the same nodes stay in float32 in both files
AT_ONCE = 8  # batches whose values are in memory together
LabelledBatch = tuple[Mapping[str, Array], Array | None]


@dataclass(frozen=True)
class LoweredPair:
    """The pair that engines are built from.

    Attributes:
        dense: ONNX file.
        sparse: ONNX file.
        layers: Pruned layers of the sparse one.
        lowered: What the conversion of the sparse one tells; None where both are the float32 files.
    """

    dense: Path
    sparse: Path
    layers: tuple[Linear, ...]
    lowered: Lowered | None


def lower(
    dense: Path, sparse: Path, pruned: Sequence[str], folder: Path, *, precision: str, feeds: Sequence[Feeds]
) -> LoweredPair:
    """Writes `dense.PRECISION.onnx` and `sparse.PRECISION.onnx` into `folder`; with `fp32` nothing is written.

    The same nodes stay in float32 in both, those that need it in either: else engines of different precision would be
    compared.

    Args:
        dense: ONNX file.
        sparse: ONNX file with pruned weights.
        pruned: Names of these weights; verified again in what is written.
        folder: Is made where it is missing.
        precision: `fp16`, `bf16` or `fp32`.
        feeds: Calibration batches.

    Raises:
        Prox24Error: See `LowerPrecision.call`.
    """
    wanted = set(pruned)
    found = FindLinears().call(graph=OnnxGraph(sparse)).linears
    layers = tuple(layer for layer in found if layer.weight in wanted)
    if precision not in get_args(LowPrecisionName):
        return LoweredPair(dense, sparse, layers, None)
    convert = LowerPrecision("bf16" if precision == "bf16" else "fp16")
    places = [folder / f"{kind}.{precision}.onnx" for kind in ("dense", "sparse")]
    some = list(feeds)[:CALIBRATION_BATCHES]
    kept: dict[str, str] = {}
    for _ in range(MOST_ROUNDS):
        told = (
            convert.call(source=dense, target=places[0], feeds=some),
            convert.call(source=sparse, target=places[1], feeds=some, linears=layers),
        )
        kept |= {**told[0].kept_in_fp32, **told[1].kept_in_fp32, **kept}
        if told[0].kept_in_fp32.keys() == told[1].kept_in_fp32.keys():
            notes = tuple(dict.fromkeys((*told[0].notes, *told[1].notes)))
            lowered = replace(told[1], kept_in_fp32={name: kept[name] for name in told[1].kept_in_fp32}, notes=notes)
            return LoweredPair(places[0], places[1], layers, lowered)
        convert = replace(convert, keep=tuple(glob.escape(name) for name in kept))
    raise Prox24Error(
        f"{dense} and {sparse} cannot be converted alike: other nodes have to stay in float32. A comparison of the two "
        "would say nothing. Use --precision fp32 or bf16."
    )


def measure_lowered(
    dense: OnnxGraph, lowered: Path, batches: Sequence[LabelledBatch], samples: int, next_token: str | None
) -> AccuracyReport:
    """Measures a converted file against the dense model, with every value rounded to the type that the file says."""
    outputs = _run_rounded(OnnxGraph(lowered), [feeds for feeds, _ in batches])
    return accuracy.compare_models(
        dense.runner(),
        lambda _feeds: next(outputs),
        dense.outputs,
        batches,
        samples=samples,
        next_token=next_token,
        tick=lambda: None,
    )


def _run_rounded(graph: OnnxGraph, feeds: Sequence[Feeds]) -> Iterator[Sequence[Array]]:
    """Runs each batch with every value rounded to its type; yields the outputs in the order of the graph."""
    for start in range(0, len(feeds), AT_ONCE):
        for outputs in observe(graph, feeds[start : start + AT_ONCE], rounded=True).outputs:
            yield [outputs[name] for name in graph.outputs]
