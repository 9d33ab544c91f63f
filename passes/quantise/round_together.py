"""Rounds weights to the INT8 grid together: the Gram matrix of what a layer reads decides where the error goes.

What a layer reads are its activations as they are quantised. An error in one weight is made good by the others of its
output channel; zeros stay zeros. See `prox24_export.solver.rounding`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Candidate, Feeds, Use
from prox24_export.passes.quantise.insert import Integers
from prox24_export.passes.quantise.observe import iterate_values
from prox24_export.passes.quantise.placement import Placement, QuantisedWeight
from prox24_export.passes.quantise.scales import LAST
from prox24_export.solver.rounding import round_to_grid

AT_ONCE = 1 << 27  # most entries of the Gram matrices that are in memory together: 512 MiB; there are as many passes


@dataclass
class _Moments:
    """The Gram matrix of what a weight's layers read, and its number of rows."""

    gram: Float[Tensor, "K K"]
    tokens: int = 0

    @staticmethod
    def empty(columns: int) -> "_Moments":
        """Moments of no row."""
        return _Moments(torch.zeros(columns, columns))

    def add(self, use: Use, quantised: Array) -> None:
        """Adds what one node reads in one batch."""
        for x in use.view.chunks(quantised):
            self.gram += x.float().T @ x.float()
            self.tokens += len(x)


def round_together(
    graph: OnnxGraph, places: Placement, scales: Mapping[str, float], feeds: Sequence[Feeds]
) -> dict[str, Integers]:
    """Rounds every weight that is quantised.

    Args:
        graph: The float model, with the nodes that `places` names.
        places: Where quantisers stand.
        scales: The scale of each activation that has one of its own, by name.
        feeds: Calibration batches.

    Returns:
        By name of the weight, int8 integers in its stored shape, and the float32 scale of each output channel.

    Raises:
        InputError: The model cannot be run on a batch.
    """
    uses: dict[str, list[Use]] = {}
    for entry in graph.operators():
        if isinstance(entry, Candidate) and entry.weight in places.weights:
            uses.setdefault(entry.weight, []).append(entry.use)
    ends = {
        name: scales.get(places.tied.get(name, name))
        for each in uses.values()
        for name in (use.activation for use in each)
    }
    result = {}
    for weights in _split([places.weights[name] for name in uses]):
        moments = {weight.name: _Moments.empty(weight.layout.shape[1]) for weight in weights}
        _observe(graph, feeds, [(use, seen) for name, seen in moments.items() for use in uses[name]], ends)
        for weight in weights:
            seen = moments.pop(weight.name)
            matrix = np.array(weight.layout.to_matrix(graph.stored(weight.name)), np.float32)
            rounded = round_to_grid(torch.from_numpy(matrix), seen.gram, tokens=max(1, seen.tokens))
            integers = weight.layout.from_matrix(rounded.integers.numpy())
            result[weight.name] = integers, rounded.scales.numpy()
    return result


def quantise_values(values: Array, scale: float) -> Array:
    """Rounds values as QuantizeLinear and DequantizeLinear do: to −128 to 127 times a scale."""
    steps: Array = np.clip(np.rint(values / np.float32(scale)), -LAST - 1, LAST)
    return steps.astype(np.float32) * np.float32(scale)


def _observe(
    graph: OnnxGraph,
    feeds: Sequence[Feeds],
    readers: Sequence[tuple[Use, _Moments]],
    scales: Mapping[str, float | None],
) -> None:
    """Adds what each node reads, quantised where it has a scale, to the moments of its weight."""
    for values in iterate_values(graph, feeds, frozenset(use.activation for use, _ in readers)):
        quantised = {
            name: array if (scale := scales[name]) is None else quantise_values(array, scale)
            for name, array in values.items()
        }
        for use, moments in readers:
            if use.activation in quantised:
                moments.add(use, quantised[use.activation])


def _split(weights: Sequence[QuantisedWeight]) -> Iterator[list[QuantisedWeight]]:
    """Yields as many weights at a time as have Gram matrices that fit in memory, one at least."""
    group: list[QuantisedWeight] = []
    entries = 0
    for weight in weights:
        size = weight.layout.shape[1] ** 2
        if group and entries + size > AT_ONCE:
            yield group
            group, entries = [], 0
        group.append(weight)
        entries += size
    if group:
        yield group
