"""The layers of real models, as problems to measure solvers on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from models import MODELS
from power_law import Layer

from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import Batch, Streams
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph

SAMPLES_AT_ONCE = 64


def layers_of(model: str, folder: Path) -> Iterator[Layer]:
    """The layers of a real model as the dense network feeds them, from its calibration and its evaluation data."""
    file, calibration, evaluation = MODELS[model][1](folder)
    graph = OnnxGraph(file)
    linears = FindLinears().call(graph=graph).linears
    batches = [
        *(Batch("fit", feeds) for feeds in _feeds(calibration, graph)),
        *(Batch("choice", feeds) for feeds in _feeds(evaluation, graph)),
    ]
    streams = Streams(graph, batches)
    for stage in schedule(graph, linears):
        seen = Calibrate().call(streams=streams, stage=stage, weights={}).observations
        for linear in stage.linears:
            fit, held = seen[linear.name].fit, seen[linear.name].choice
            if held is None:
                raise RuntimeError(f"no held-out tokens came to {linear.name}")
            yield Layer(graph.weight(linear), fit.gram, held.gram, fit.tokens)


def _feeds(file: Path, graph: OnnxGraph) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    arrays = np.load(file)
    fed = {entry.name: arrays[entry.name].astype(entry.dtype) for entry in graph.inputs}
    for start in range(0, len(next(iter(fed.values()))), SAMPLES_AT_ONCE):
        yield {name: array[start : start + SAMPLES_AT_ONCE] for name, array in fed.items()}
