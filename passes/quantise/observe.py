"""Runs a float model over calibration batches, one after the other, and keeps histograms of the values asked for."""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.passes.precision.ranges import explain_failed_run, split_into_parts
from prox24_export.passes.quantise.histogram import Histogram

AT_ONCE = 1 << 20  # most nodes that run together: only the size of their weights parts a model


@dataclass(frozen=True)
class ObservedMagnitudes:
    """What was seen of a model.

    Attributes:
        histograms: Magnitudes of every value asked for, by name.
        channels: By name of a value, the largest magnitude of each entry along its last axis.
    """

    histograms: dict[str, Histogram]
    channels: dict[str, Array] = field(default_factory=dict)


def observe_magnitudes(
    graph: OnnxGraph, batches: Iterable[Feeds], names: AbstractSet[str], channels: AbstractSet[str] = frozenset()
) -> ObservedMagnitudes:
    """Runs the model on each batch, of which one is in memory at a time.

    Args:
        graph: The float32 model.
        batches: Calibration batches.
        names: The values of which histograms are kept.
        channels: The values of which the largest magnitude of each entry along the last axis is kept.

    Raises:
        InputError: The model cannot be run on a batch.
    """
    seen = ObservedMagnitudes({name: Histogram() for name in sorted(names)})
    for values in iterate_values(graph, batches, names | channels):
        _keep(seen, values, names, channels)
    return seen


def iterate_values(graph: OnnxGraph, batches: Iterable[Feeds], names: AbstractSet[str]) -> Iterator[dict[str, Array]]:
    """Runs the model on each batch, and yields the values asked for as they are computed, each once in a batch.

    Args:
        graph: The float32 model.
        batches: Calibration batches.
        names: The values that are asked for; inputs may be among them.

    Raises:
        InputError: The model cannot be run on a batch.
    """
    inputs = {entry.name for entry in graph.inputs}
    parts = [
        (part, later, sorted({name for node in part for name in node.outputs} & (names | later)))
        for part, later in split_into_parts(graph, AT_ONCE)
    ]
    parts = [entry for entry in parts if entry[2]]  # of the others nothing is wanted
    runs: list[Callable[[Feeds], dict[str, Array]]] = []
    for batch in batches:
        values = {name: array for name, array in batch.items() if name in inputs}
        yield {name: array for name, array in values.items() if name in names}
        for place, (part, later, fetches) in enumerate(parts):
            with explain_failed_run(graph, part[0]):
                if place == len(runs):
                    runs.append(graph.compile(part, values, fetches, {}))
                fetched = runs[place](values)
            yield {name: array for name, array in fetched.items() if name in names}
            values = {name: value for name, value in {**values, **fetched}.items() if name in later}


def _keep(seen: ObservedMagnitudes, values: Feeds, names: AbstractSet[str], channels: AbstractSet[str]) -> None:
    for name in names & values.keys():
        seen.histograms[name].add(values[name])
    for name in channels & values.keys():
        largest = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(0, initial=0.0)
        before = seen.channels.get(name)
        seen.channels[name] = largest if before is None else np.maximum(before, largest)
