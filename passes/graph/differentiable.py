"""A graph as a differentiable function, and the way between its parameters and the tensors that the model stores."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from prox24_export.passes.graph.arrays import Array, as_array, as_tensor, find_largest_value
from prox24_export.passes.graph.experts import split_part_name
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.solver.pattern import GROUP


@dataclass(frozen=True)
class Differentiable:
    """A graph as a differentiable function. Statistics and other buffers are constants of it.

    Attributes:
        module: The function, `forward(*inputs) -> tuple of tensors`, with inputs and outputs in the graph's order.
        parameters: Name of the module's parameter by name of the stored tensor, for tensors of floating-point numbers.
        buffers: Name of the module's buffer by name of the stored tensor, for stored tensors that are constants of it.
        dequantised: Names of the buffers that hold the floats of a weight that is stored as integers, by its name.
    """

    module: fx.GraphModule
    parameters: Mapping[str, str]
    buffers: Mapping[str, str] = field(default_factory=dict)
    dequantised: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def pruned_parameters(self, linears: Sequence[Linear], weights: Mapping[str, Array]) -> dict[str, Tensor]:
        """Solved weights as float32 tensors in the parameter's shape, by name of the parameter.

        A weight of which only some experts are pruned is left out, so that it stays as it is.

        Args:
            linears: The pruned layers.
            weights: Their solved weights by name, in the stored shape and dtype.
        """
        pieces: dict[str, dict[int | None, Array]] = {}
        for linear in linears:
            name, index = split_part_name(linear.weight, self.parameters)
            if name in self.parameters:
                pieces.setdefault(name, {})[index] = weights[linear.weight]
        result: dict[str, Tensor] = {}
        for name, parts in pieces.items():
            parameter = self.module.get_parameter(self.parameters[name])
            array = _join(parts, len(parameter))
            if array is not None and array.shape == tuple(parameter.shape):
                result[self.parameters[name]] = as_tensor(array).float()
        return result

    def solved_buffers(self, linears: Sequence[Linear], weights: Mapping[str, Array]) -> dict[str, Tensor]:
        """Solved weights that are stored as integers, as what the module reads, by name of the buffer.

        They are constants: no small change of a float is one of an integer.

        Args:
            linears: The pruned layers.
            weights: Their solved weights by name, in the stored shape and dtype.
        """
        return {
            place: as_tensor(linear.grid.to_floats(weights[linear.weight]))
            for linear in linears
            if linear.grid is not None
            for place in self.dequantised.get(linear.weight, ())
        }

    def list_groups(self, linears: Sequence[Linear], names: Collection[str]) -> dict[str, Tensor]:
        """Lists the places of the four entries of each group in the flattened parameter: int64 [groups, 4].

        Args:
            linears: The pruned layers.
            names: The parameters that are asked for.
        """
        found: dict[str, dict[int | None, Array]] = {}
        for linear in linears:
            whole, index = split_part_name(linear.weight, self.parameters)
            name = self.parameters.get(whole, "")
            if name in names:
                parameter = self.module.get_parameter(name)
                places = np.arange(parameter.numel()).reshape(parameter.shape)
                matrix = linear.layout.to_matrix(places if index is None else places[index])
                found.setdefault(name, {})[index] = matrix.reshape(-1, GROUP)
        return {name: torch.from_numpy(np.concatenate(list(parts.values()))) for name, parts in found.items()}

    def stored_tensors(
        self, graph: TracedGraph, linears: Sequence[Linear], tensors: Mapping[str, Tensor]
    ) -> dict[str, Array]:
        """Converts tensors from the module's parameters to the shape and dtype in which the model stores them.

        Args:
            graph: The model.
            linears: Its pruned layers; +0.0 stays +0.0 in their weights.
            tensors: New values by name of the parameter.

        Returns:
            Arrays by name of the stored tensor, clipped to what its dtype can hold.
        """
        owners: dict[str, str] = {}
        for name, place in self.parameters.items():
            owners.setdefault(place, name)  # tied weights belong to the first of them
        stored: dict[str, Array] = {}
        pruned = set()
        for linear in linears:
            whole, index = split_part_name(linear.weight, self.parameters)
            place = self.parameters.get(whole, "")
            if place in tensors:
                pruned.add(place)
                tensor = tensors[place] if index is None else tensors[place][index]
                matrix = np.ascontiguousarray(linear.layout.to_matrix(as_array(tensor)))
                stored[linear.weight] = linear.to_stored(torch.from_numpy(matrix))
        for place in tensors.keys() - pruned:
            dtype = graph.stored(owners[place]).dtype
            limit = min(find_largest_value(str(dtype)), torch.finfo(tensors[place].dtype).max)
            stored[owners[place]] = as_array(tensors[place].clamp(-limit, limit)).astype(dtype)
        return stored


def _join(parts: Mapping[int | None, Array], count: int) -> Array | None:
    """The whole weight, or its `count` experts joined along a first axis; None where some of them are missing."""
    if None in parts:
        return parts[None]
    return np.stack([parts[index] for index in range(count)]) if len(parts) == count else None
