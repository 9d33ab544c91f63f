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
    """Runs the float model on batches of feeds.

    Raises:
        InputError: It cannot be run on one.
    """
    run = graph.runner()
    try:
        return [dict(zip(graph.outputs, run(batch), strict=True)) for batch in batches]
    except Exception as error:
        raise InputError(
            f"{graph.path} cannot be run: {runtime.shorten_message(error)}. Expected calibration data that fit the "
            "model."
        ) from error


def compare_outputs(before: Outputs, after: Outputs) -> dict[str, float]:
    """Measures `‖quantised − float‖ / ‖float‖` of each float output, by its name; see `measure_differences`."""
    return measure_differences(ObservedValues({}, before), ObservedValues({}, after))
