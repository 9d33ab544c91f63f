"""The 2:4 pattern itself: of every four aligned, consecutive entries along the last axis, at most two are non-zero.

Everything here is exact for every float dtype, runs where the tensor lives, and costs a few passes over memory.
"""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

GROUP = 4
KEPT = 2


def groups_of_four(weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "... 4"]:
    """Split the last axis ``n`` into ``(n/4, 4)``, without a copy where the strides allow it.

    Raises:
        ValueError: there is no last axis, or four does not divide it.
    """
    if weight.ndim == 0 or weight.shape[-1] % GROUP:
        raise ValueError(
            f"weight must have a last axis that is a multiple of 4. Got shape {tuple(weight.shape)}. "
            "Put the input channels on the last axis, or leave this weight dense."
        )
    return weight.reshape(*weight.shape[:-1], weight.shape[-1] // GROUP, GROUP)


def two_four_mask(weight: Shaped[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """True for the two entries of largest magnitude in every group of four along the last axis.

    Exactly two in every group, whatever the values: of equal magnitudes the lower index is kept, zeros included.
    No threshold is involved, which would keep three where the second and third are equal.

    Args:
        weight: real, any shape whose last axis is a multiple of four, any dtype, any device.

    Raises:
        ValueError: the last axis does not split into groups, or a value is NaN and has no rank.
    """
    size = groups_of_four(weight).abs()
    if torch.isnan(size).any():
        raise ValueError(
            f"weight must hold no NaN, which has no magnitude to rank. Got {int(torch.isnan(size).sum())} NaN in shape "
            f"{tuple(weight.shape)}. Repair the weight before pruning it."
        )
    return mark_two_largest(size).reshape(weight.shape)


def mark_two_largest(size: Shaped[Tensor, "... 4"]) -> Bool[Tensor, "... 4"]:
    """True for the two largest of four magnitudes, as `two_four_mask` has it; that none is NaN is not checked.

    So nothing is read, for which the host would have to wait for a GPU.
    """
    a, b, c, d = size.unbind(-1)
    # Six games, the lower index winning draws; the kept two are those that lost fewer than two of their three games.
    ab, ac, ad, bc, bd, cd = a >= b, a >= c, a >= d, b >= c, b >= d, c >= d
    kept = [
        _lost_at_most_one(~ab, ~ac, ~ad),
        _lost_at_most_one(ab, ~bc, ~bd),
        _lost_at_most_one(ac, bc, ~cd),
        _lost_at_most_one(ad, bd, cd),
    ]
    return torch.stack(kept, dim=-1)


def _lost_at_most_one(x: Bool[Tensor, "..."], y: Bool[Tensor, "..."], z: Bool[Tensor, "..."]) -> Bool[Tensor, "..."]:
    return ~((x & y) | (z & (x | y)))


def count_violations(weight: Shaped[Tensor, "..."]) -> int:
    """The number of groups with more than two non-zeros; -0.0 counts as zero, NaN as non-zero.

    Raises:
        ValueError: the last axis does not split into groups.
    """
    return int(((groups_of_four(weight) != 0).sum(dim=-1) > KEPT).sum())


def is_two_four(weight: Shaped[Tensor, "..."]) -> bool:
    """Whether no group has more than two non-zeros; see `count_violations`."""
    return count_violations(weight) == 0


def positive_zeros(weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """A copy in which every -0.0 is +0.0: some sparse kernels read the sign bit as a value."""
    return torch.where(weight == 0, torch.zeros_like(weight), weight)
