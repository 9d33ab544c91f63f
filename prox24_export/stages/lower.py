"""Both finished models as ONNX files in the precision that engines compute in, and what the conversion costs."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from prox24_export.errors import Prox24Error
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Linear
from prox24_export.passes.precision.lower import Lowered, LowerPrecision
from prox24_export.passes.precision.quantised import read_integers
from prox24_export.passes.precision.ranges import observe
from prox24_export.passes.precision.types import LowPrecisionName
from prox24_export.passes.quantise.quantise import Quantised, QuantiseModel
from prox24_export.results.report import AccuracyReport
from prox24_export.validation import accuracy

CALIBRATION_BATCHES = 4  # that ranges of values are taken from
INT8_SAMPLES = 512  # most that scales are taken from, and most that they are chosen on
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
        scales: How INT8 scales of the `dense` and the `sparse` one were chosen; empty where they were not.
    """

    dense: Path
    sparse: Path
    layers: tuple[Linear, ...]
    lowered: Lowered | Quantised | None
    scales: Mapping[str, str] = field(default_factory=dict)


def lower(
    dense: Path,
    sparse: Path,
    pruned: Sequence[str],
    folder: Path,
    *,
    precision: str,
    feeds: Sequence[Feeds],
    held_back: Sequence[Feeds] = (),
) -> LoweredPair:
    """Writes `dense.PRECISION.onnx` and `sparse.PRECISION.onnx` into `folder`; with `fp32` nothing is written.

    The same nodes stay in float32 in both, those that need it in either: else engines of different precision would be
    compared.

    Args:
        dense: ONNX file.
        sparse: ONNX file with pruned weights.
        pruned: Names of these weights; verified again in what is written.
        folder: Is made where it is missing.
        precision: `fp16`, `bf16`, `fp32` or `int8`.
        feeds: Calibration batches.
        held_back: Batches on which INT8 scales are chosen.

    Raises:
        Prox24Error: See `LowerPrecision.call` and `QuantiseModel.call`.
    """
    wanted = set(pruned)
    found = FindLinears().call(graph=read_integers(OnnxGraph(sparse))).linears
    layers = tuple(layer for layer in found if layer.weight in wanted)
    places = [folder / f"{kind}.{precision}.onnx" for kind in ("dense", "sparse")]
    convert: LowerPrecision | QuantiseModel
    if precision == "int8":
        convert = QuantiseModel()
    elif precision in get_args(LowPrecisionName):
        convert = LowerPrecision("bf16" if precision == "bf16" else "fp16")
    else:
        return LoweredPair(dense, sparse, layers, None)
    kept: dict[str, str] = {}
    for _ in range(MOST_ROUNDS):
        told = _convert_pair(convert, (dense, sparse), places, layers, (feeds, held_back))
        kept |= {**told[0].kept_in_fp32, **told[1].kept_in_fp32, **kept}
        if told[0].kept_in_fp32.keys() == told[1].kept_in_fp32.keys():
            notes = tuple(dict.fromkeys((*told[0].notes, *told[1].notes)))
            same = {name: kept[name] for name in told[1].kept_in_fp32}
            lowered = replace(told[1], kept_in_fp32=same, notes=notes)
            return LoweredPair(places[0], places[1], layers, lowered, _tell_choices(told))
        convert = replace(convert, keep=tuple(glob.escape(name) for name in kept))
    raise Prox24Error(
        f"{dense} and {sparse} cannot be converted alike: other nodes have to stay in float32. A comparison of the two "
        "would say nothing. Use --precision fp32 or bf16."
    )


def _convert_pair(
    convert: LowerPrecision | QuantiseModel,
    files: tuple[Path, Path],
    places: Sequence[Path],
    layers: tuple[Linear, ...],
    batches: tuple[Sequence[Feeds], Sequence[Feeds]],
) -> tuple[Lowered, Lowered] | tuple[Quantised, Quantised]:
    """Converts the dense and the sparse file."""
    feeds, held_back = batches
    if isinstance(convert, QuantiseModel):
        one, other = (
            convert.call(source=file, target=place, feeds=feeds, held_back=held_back, linears=pruned)
            for file, place, pruned in zip(files, places, ((), layers), strict=True)
        )
        return one, other
    some = list(feeds)[:CALIBRATION_BATCHES]
    return (
        convert.call(source=files[0], target=places[0], feeds=some),
        convert.call(source=files[1], target=places[1], feeds=some, linears=layers),
    )


def _tell_choices(told: Sequence[Lowered | Quantised]) -> dict[str, str]:
    """How scales were chosen for the dense and the sparse model, where they were."""
    pairs = zip(("dense", "sparse"), told, strict=True)
    return {kind: one.chosen for kind, one in pairs if isinstance(one, Quantised) and one.chosen}


def measure_quantised(
    dense: OnnxGraph, quantised: Path, batches: Sequence[LabelledBatch], samples: int, next_token: str | None
) -> AccuracyReport:
    """Measures an INT8 file against the dense float model, with Q/DQ executed in float."""
    return accuracy.compare_models(
        dense.runner(),
        OnnxGraph(quantised).runner(),
        dense.outputs,
        batches,
        samples=samples,
        next_token=next_token,
        tick=lambda: None,
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
