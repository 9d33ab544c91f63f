"""Measures how much memory the refinement of a whole network takes, and how much is free."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from prox24_export.passes.refine.objective import Objective, StreamPair

MEMORY = Path("/proc/meminfo")


def measure_kept_for_gradient(objective: Objective, weights: Mapping[str, Tensor], pair: StreamPair) -> int:
    """Measures how many bytes of activations one batch keeps for its gradient, each storage counted once.

    Args:
        objective: What is minimised.
        weights: The weights that move, by name of the parameter; they are not counted.
        pair: What the dense and the pruned network read.
    """
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in weights.values()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that its own gradient keeps would never be freed

    tracked = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objective.of(tracked, pair).mean()
    return sum(kept.values())


def find_available_memory(device: torch.device) -> int:
    """Finds how many bytes are free on a device, the CPU included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if MEMORY.is_file():
        for line in MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
