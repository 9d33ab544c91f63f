"""How far the outputs of a quantised file are from those of the float model, with Q/DQ executed in float."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.passes.precision.check import measure_differences
from prox24_export.passes.precision.ranges import ObservedValues

MOST_BYTES = 500_000_000  # of outputs that are held to compare others with

Outputs = Sequence[Mapping[str, Array]]
"""The outputs by name of each batch."""


def run_model(file: Path, names: Sequence[str], batches: Iterable[Feeds]) -> Outputs:
    """Runs a file on batches of feeds.

    Raises:
        RuntimeError: ONNX Runtime cannot load or run it.
    """
    session = runtime.open_session(file)
    return [dict(zip(names, session.run(list(names), dict(batch)), strict=True)) for batch in batches]


def run_float(graph: OnnxGraph, batches: Iterable[Feeds]) -> Outputs:
    """Runs the float model on as many of the first batches as `MOST_BYTES` of outputs come from, at least on one.

    Raises:
        InputError: It cannot be run on a batch.
    """
    run = graph.runner()
    found: list[Mapping[str, Array]] = []
    held = 0
    try:
        for batch in batches:
            found.append(dict(zip(graph.outputs, run(batch), strict=True)))
            held += sum(array.nbytes for array in found[-1].values())
            if held >= MOST_BYTES:  # as with the tokens of a large vocabulary
                break
    except Exception as error:
        raise InputError(
            f"{graph.path} cannot be run: {runtime.shorten_message(error)}. Expected calibration data that fit the "
            "model."
        ) from error
    return found


def compare_outputs(before: Outputs, after: Outputs) -> dict[str, float]:
    """Measures `‖quantised − float‖ / ‖float‖` of each float output, by its name; see `measure_differences`."""
    return measure_differences(ObservedValues({}, before), ObservedValues({}, after))
