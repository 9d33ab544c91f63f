"""What a batch keeps for its gradient is measured, and is gone afterwards."""

import gc

import torch
from torch import Tensor, nn

from prox24_export.passes.refine.memory import measure_kept_for_gradient


class _Sum:
    """Stands for an objective: the sum of a network's outputs with weights that are given."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def of(self, weights: dict[str, Tensor], pair: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(self.module, weights, (pair,))
        return result


def count_graphs() -> int:
    gc.collect()
    return sum(type(value) is Tensor and value.grad_fn is not None for value in gc.get_objects())


def test_activations_are_counted_once_and_no_graph_stays_alive() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.Softmax(-1), nn.Linear(16, 4)).requires_grad_(False)
    weights = {name: tensor for name, tensor in module.named_parameters() if tensor.ndim == 2}
    before = count_graphs()
    kept = measure_kept_for_gradient(_Sum(module), weights, torch.ones(32, 8))  # type: ignore[arg-type] # duck-typed
    assert kept == 4 * 32 * (8 + 16)  # the input of each layer; the softmax keeps its output, which is one of them
    assert count_graphs() == before
