"""Steps of Adam after each of which the proximal operator of 2:4 acts on every group, so that masks may move."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prox24_export.passes.refine.adam import FIRST, SECOND, SMALL, MaskedAdam, PerSample
from prox24_export.passes.refine.state import TrainingState, Weights
from prox24_export.solver.pattern import KEPT
from prox24_export.solver.prox import prox24

GroupPlaces = Mapping[str, Int[Tensor, "groups 4"]]

LOWEST, HIGHEST = 1.0, 30.0  # λ in the first and in the last step
TINY = 1e-12  # smallest mean square of a group's two largest weights, in those of its tensor


@dataclass(frozen=True)
class ProximalAdam(MaskedAdam):
    """Proximal steps from weights that are 2:4 already: `W ← prox_{ηλ}(W − η·m)`, exact for every group.

    The operator of arXiv 2501.18015 (section 3) is exact where one step size holds for a whole group. Adam's gradient
    is therefore divided by the root mean square over its tensor, not entry by entry. The strength of a group is the
    size of a step times λ over the mean square of its two largest weights: for a group of two equal weights, a pruned
    one comes back where its mean gradient is larger than λ times the root mean square of its tensor. It then grows
    against the price that the others put on it, and they pay its price, until one of the three is zero again. λ grows
    geometrically from 1 to 30, so that in the end every group has settled.

    Attributes:
        groups: By name of the parameter, the places of the four entries of each group in the flattened parameter. A
            parameter without groups moves as `MaskedAdam` moves it.
    """

    groups: GroupPlaces = field(default_factory=dict)

    @staticmethod
    def with_groups(objective: PerSample, weights: Mapping[str, Tensor], groups: GroupPlaces) -> "ProximalAdam":
        """Measures the sizes of steps on the weights at the start, whose masks are where they are not zero."""
        masks = {name: weights[name] != 0 for name in groups}
        sizes = MaskedAdam.of(objective, weights, masks).sizes
        return ProximalAdam(objective, {}, sizes, groups)

    def _move(self, state: TrainingState, name: str, gradient: Tensor, rate: float) -> None:
        if name not in self.groups:
            super()._move(state, name, gradient, rate)
            return
        first, second, places = state.first[name], state.second[name], self.groups[name]
        first.lerp_(gradient, 1 - FIRST)
        second.mul_(SECOND).add_(gradient.square().mean(), alpha=1 - SECOND)
        spread = (second / (1 - SECOND**state.fresh)).sqrt_().add_(SMALL)
        length, weight = rate * self.sizes[name], state.weights[name]
        moved = (weight - length / (1 - FIRST**state.fresh) * first / spread).flatten()
        strength = length * _find_lambda(state) / _square_of_kept(weight.flatten()[places])
        moved[places] = prox_by_group(moved[places], strength)
        weight.copy_(moved.view(weight.shape))


def prox_by_group(groups: Float[Tensor, "groups 4"], strength: Float[Tensor, "groups 1"]) -> Float[Tensor, "groups 4"]:
    """The proximal operator with a strength for each group, by one call with strength 1.

    `R` is a sum of products of three entries. With `w = v/s`, `½‖w − z‖² + s·R(w)` is `(½‖v − sz‖² + R(v)) / s²`; so
    `prox_s(z) = prox_1(s·z) / s`.

    Args:
        groups: Four entries of each group.
        strength: Positive and finite.
    """
    return prox24((groups * strength).contiguous(), 1.0) / strength


def keep_two_largest(weights: Mapping[str, Tensor], groups: GroupPlaces) -> Weights:
    """Copies weights with the two largest of each group, the others +0.0. Parameters without groups stay as they are.

    Among equal magnitudes the lower index is kept.
    """
    result = dict(weights)
    for name, places in groups.items():
        whole = weights[name].flatten().clone()
        entries = whole[places]
        order = entries.abs().sort(dim=-1, descending=True, stable=True).indices
        whole[places] = entries.scatter(-1, order[:, KEPT:], 0.0)
        result[name] = whole.view(weights[name].shape)
    return result


def _find_lambda(state: TrainingState) -> float:
    share = min(1.0, state.step / max(1, state.planned))
    return float(LOWEST * (HIGHEST / LOWEST) ** share)


def _square_of_kept(entries: Tensor) -> Float[Tensor, "groups 1"]:
    """The mean square of each group's two largest entries; of an empty group, a trace of the mean of all."""
    squares = entries.square().topk(KEPT, -1).values.mean(-1, keepdim=True)
    return squares.clamp_min(max(TINY * float(squares.mean()), torch.finfo(squares.dtype).tiny))
