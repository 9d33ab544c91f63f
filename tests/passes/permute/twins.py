"""A model and its twin, whose free channel spaces are in a random order: both must compute the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from prox24_export.models.torch_program import TorchProgram
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.arrays import as_tensor
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.passes.permute.apply import move_tensors
from prox24_export.passes.permute.aten_trace import open_as_module, trace_to_aten
from prox24_export.passes.permute.find_spaces import ChannelSpace, FindSpaces
from prox24_export.passes.permute.search import OrderedSpace, compose


@dataclass(frozen=True)
class Twin:
    """What came of a model and its twin.

    Attributes:
        spaces: The model's spaces.
        moved: How many stored tensors have another order in the twin.
        deviation: The largest difference of an output of both, as a share of the output's largest entry.
    """

    spaces: tuple[ChannelSpace, ...]
    moved: int
    deviation: float

    def free(self) -> dict[str, list[int]]:
        """How many channels each block of a free space has, by the space's name."""
        return {space.name: [block.groups.size for block in space.blocks] for space in self.spaces if not space.reason}

    def fixed(self) -> dict[str, str]:
        """Why a fixed space is fixed, by its name."""
        return {space.name: space.reason for space in self.spaces if space.reason}


def shuffle(space: ChannelSpace, random: np.random.Generator) -> OrderedSpace:
    """The space with its channels in a random order within each block."""
    order = np.arange(space.size)
    for block in space.blocks:
        channels = block.groups.reshape(-1)
        order[channels] = random.permutation(channels)
    return OrderedSpace(space, order, 0.0)


def twin(graph: TracedGraph, feeds: Feeds, seed: int = 0, *, wide: bool = True) -> Twin:
    """Finds the spaces of a model, orders all of them anew, and runs both.

    Args:
        graph: The model.
        feeds: One batch.
        seed: Of the orders.
        wide: Whether to compute in float64, which a model that casts to float32 cannot.
    """
    found = FindSpaces().call(trace=trace_to_aten(graph, feeds), linears=FindLinears().call(graph=graph).linears)
    random = np.random.default_rng(seed)
    ordered = [shuffle(space, random) for space in found.free]
    moved = move_tensors(graph, compose(ordered))
    module, stored = open_as_module(graph)
    place_of = {name: place for place, name in stored.items()}
    new = {place_of[name]: as_tensor(np.ascontiguousarray(moved[name])) for name in moved}
    inputs = [as_tensor(feeds[value.name]) for value in graph.inputs]
    if wide:
        module, inputs = module.double(), [_widen(value) for value in inputs]
        new = {place: tensor.double() for place, tensor in new.items()}
    else:
        kinds = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        new = {place: tensor.to(kinds[place].dtype) for place, tensor in new.items()}
    with torch.no_grad():
        before, after = _as_tuple(module(*inputs)), _as_tuple(functional_call(module, new, tuple(inputs)))
    deviations = [_deviate(one, other) for one, other in zip(before, after, strict=True)]
    return Twin(found.spaces, len(moved), max(deviations, default=0.0))


def twin_of_module(module: nn.Module, *inputs: Tensor, seed: int = 0) -> Twin:
    """The twin of a torch module."""
    graph = TorchProgram.from_module(module.eval(), inputs).open()
    feeds = {value.name: tensor.numpy() for value, tensor in zip(graph.inputs, inputs, strict=True)}
    return twin(graph, feeds, seed)


def _widen(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _as_tuple(found: Any) -> Sequence[Tensor]:
    return found if isinstance(found, (tuple, list)) else (found,)


def _deviate(one: Tensor, other: Tensor) -> float:
    if not one.numel():
        return 0.0
    size = float(one.double().abs().max())
    return float((one.double() - other.double()).abs().max()) / (size or 1.0)
