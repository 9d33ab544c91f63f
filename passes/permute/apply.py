"""A model's stored tensors with their channels in another order: bytes are moved, nothing is computed."""

from collections.abc import Mapping

import numpy as np

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.lazy_mapping import LazyMapping
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.passes.permute.labels import Ids


def move_tensors(graph: TracedGraph, orders: Mapping[tuple[str, int], Ids]) -> Mapping[str, Array]:
    """Gives the tensors that change, by name; each is read and reordered when it is asked for.

    Args:
        graph: The model as it came.
        orders: By tensor and axis, for each entry of the copy the entry of the source that it is.
    """
    by_name: dict[str, dict[int, Ids]] = {}
    for (name, axis), order in orders.items():
        by_name.setdefault(name, {})[axis] = order

    def move(name: str) -> Array:
        array = graph.stored(name)
        for axis, order in by_name[name].items():
            array = np.take(array, order, axis)
        return array

    return LazyMapping(move, by_name)
