"""Steps of Adam under fixed masks, their size relative to the weights, and the running mean of the weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.passes.refine.state import TrainingState

PerSample = Callable[[Mapping[str, Tensor], Any], Float[Tensor, " samples"]]

FIRST, SECOND, SMALL = 0.9, 0.95, 1e-12  # decay of Adam's moments; what keeps it from dividing by zero
MATRIX, WIDTH = 2, 64  # axes of a matrix; reduction dimension at which a step is the relative rate


@dataclass(frozen=True)
class MaskedAdam:
    """Adam (Kingma and Ba, 2015) under fixed masks.

    The size of a step of each tensor is the rate times the root mean square of its surviving weights at the start,
    times √(64 / K) for a reduction dimension K: Adam moves all K weights of an output at once. Gradients are multiplied
    by the masks, so that a pruned weight never leaves +0.0.

    Attributes:
        objective: What is minimised: a function of weights and a batch that returns one value per sample.
        masks: Masks by name of the parameter, True where a weight survives. Parameters without a mask move as a whole.
        sizes: Size of a step at a relative rate of 1, by name of the parameter.
    """

    objective: PerSample
    masks: Mapping[str, Tensor]
    sizes: Mapping[str, float]

    @staticmethod
    def of(objective: PerSample, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> "MaskedAdam":
        """Measures the sizes of steps on the weights at the start. Without a mask every weight survives."""
        sizes = {name: _find_step_size(weight, masks.get(name)) for name, weight in weights.items()}
        return MaskedAdam(objective, masks, sizes)

    def step(self, state: TrainingState, batch: Any, rate: float, horizon: float) -> float:
        """Takes one step; nothing moves where the gradient is not finite.

        Args:
            state: It is changed in place.
            batch: What the objective is computed on.
            rate: Relative learning rate of this step.
            horizon: Number of steps over which weights are averaged; fewer at the start.

        Returns:
            The mean objective of the batch before the step.
        """
        weights = {name: weight.detach().requires_grad_() for name, weight in state.weights.items()}
        loss = self.objective(weights, batch).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        state.step += 1
        known = [torch.isfinite(gradient).all() for gradient in gradients if gradient is not None]
        is_finite = torch.stack(known).all() if known else torch.ones_like(loss, dtype=torch.bool)
        value, moves = torch.stack([loss.detach().double(), is_finite.double()]).tolist()  # read together: a GPU waits
        if moves:
            state.fresh += 1
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    self._move(state, name, gradient, rate)
            share = 1 / min(max(1.0, horizon), state.fresh + 1)
            for name, average in state.average.items():
                average.lerp_(state.weights[name], share)
        return float(value)

    def _move(self, state: TrainingState, name: str, gradient: Tensor, rate: float) -> None:
        first, second = state.first[name], state.second[name]
        mask = self.masks.get(name)
        gradient = gradient if mask is None else gradient * mask
        first.lerp_(gradient, 1 - FIRST)
        second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
        spread = (second / (1 - SECOND**state.fresh)).sqrt_().add_(SMALL)
        size = rate * self.sizes[name] / (1 - FIRST**state.fresh)
        state.weights[name].addcdiv_(first, spread, value=-size)


def _find_step_size(weight: Tensor, mask: Tensor | None) -> float:
    """Computes `rms · √(64 / K)`. The root of a matrix's size stands for its K: which axis it is, is not known here."""
    kept = weight if mask is None else weight[mask.bool()]
    rms = float(kept.square().mean().sqrt()) if kept.numel() else 0.0
    if weight.ndim < MATRIX:
        return rms or 1.0
    width = math.sqrt(weight.numel()) if weight.ndim == MATRIX else weight.numel() / len(weight)
    return (rms or 1.0) * math.sqrt(WIDTH / max(1.0, width))
