"""A model's stored tensors with their channels in another order: bytes are moved, nothing is computed."""

from collections.abc import Iterator, Mapping

import numpy as np

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.passes.permute.labels import Ids


class MovedTensors(Mapping[str, Array]):
    """The tensors that change, by name; each is read and reordered when it is asked for."""

    def __init__(self, graph: TracedGraph, orders: Mapping[tuple[str, int], Ids]) -> None:
        """Reads nothing yet.

        Args:
            graph: The model as it came.
            orders: By tensor and axis, for each entry of the copy the entry of the source that it is.
        """
        self._graph = graph
        self._orders: dict[str, dict[int, Ids]] = {}
        for (name, axis), order in orders.items():
            self._orders.setdefault(name, {})[axis] = order

    def __getitem__(self, name: str) -> Array:
        """Reads a tensor and moves its entries."""
        orders = self._orders[name]
        array = self._graph.stored(name)
        for axis, order in orders.items():
            array = np.take(array, order, axis)
        return array

    def __contains__(self, name: object) -> bool:
        """Whether the tensor changes; reads none."""
        return name in self._orders

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the spaces."""
        return iter(self._orders)

    def __len__(self) -> int:
        """How many change."""
        return len(self._orders)
