"""The weights that move: which they are, on the device of the network, with +0.0 where they are pruned."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, fx

from prox24_export.passes.front_torch.device_interpreter import move_nodes
from prox24_export.passes.refine.state import Weights
from prox24_export.passes.refine.views import Inputs

Which = Literal["weights", "weights+bias", "all"]


def move_to_device(
    dense: fx.GraphModule, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[Weights, dict[str, Tensor]]:
    """Moves weights, as float32, and their masks to the device of the network's parameters."""
    parameters = dict(dense.named_parameters())
    moved = {name: w.detach().to(parameters[name].device, torch.float32) for name, w in weights.items()}
    return moved, {name: masks[name].to(weight.device) for name, weight in moved.items()}


def find_moving(dense: fx.GraphModule, which: Which) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters that move beside the solved weights, by name, as float32."""
    for name, parameter in dense.named_parameters():
        if parameter.is_floating_point() and (which == "all" or (which == "weights+bias" and parameter.ndim == 1)):
            yield name, parameter.detach().float()


def restore_zeros(weight: Tensor, mask: Tensor) -> Tensor:
    """Gives every pruned entry the value +0.0."""
    return torch.where(mask.bool(), weight, torch.zeros_like(weight))


def find_device(module: fx.GraphModule) -> torch.device:
    """Finds the device of a network: that of its parameters, or the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def move_module(module: fx.GraphModule, device: torch.device) -> None:
    """Moves a network to a device, in place; what its nodes make they then make there."""
    if device.type == "cpu" and find_device(module) == device:
        return
    module.to(device)
    move_nodes(module.graph, device)
    module.recompile()


def free_module(module: fx.GraphModule) -> None:
    """Gives the memory of a network on a GPU back; it cannot be run any more. One on the CPU stays as it is."""
    if find_device(module).type != "cpu":
        module.to("meta")


def move_feeds(feeds: Inputs, device: torch.device) -> Inputs:
    """Moves the inputs of a batch to a device."""
    return tuple(feed.to(device) for feed in feeds)
