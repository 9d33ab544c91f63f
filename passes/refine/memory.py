"""Measures how much memory activations take that are kept for a gradient."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from prox24_export.passes.refine.objective import Objective, StreamPair


def measure_kept_for_gradient(objective: Objective, weights: Mapping[str, Tensor], pair: StreamPair) -> int:
    """Measures how many bytes of activations one batch keeps for its gradient, each storage counted once.

    Args:
        objective: What is minimised.
        weights: The weights that move, by name of the parameter; they are not counted.
        pair: What the dense and the pruned network read.
    """
    tracked = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    return measure_kept(lambda: objective.of(tracked, pair).mean(), tracked.values())


def measure_kept(action: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Measures how many bytes an action keeps for gradients, each storage counted once.

    Args:
        action: What computes with gradients.
        weights: Tensors that are there anyway; they are not counted.
    """
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in weights}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that its own gradient keeps would never be freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        action()
    return sum(kept.values())
