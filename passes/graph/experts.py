"""Experts: one stored weight `[E, …]` that holds E matrices, each of which multiplies rows of its own."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Expert:
    """One expert, which multiplies only some rows of an activation.

    Attributes:
        index: Index of the expert along the weight's first axis.
        offsets: Name of the value [E] that holds the end of each expert's rows. None where the first axis of the
            activation is an axis of experts, too.
        tokens: Name of the value that holds the number of the token of each row. None where it is not known.
    """

    index: int
    offsets: str | None = None
    tokens: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values that routing needs beside the activation."""
        return tuple(name for name in (self.offsets, self.tokens) if name is not None)

    def rows(self, activation: str, dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> tuple[Any, Any]:
        """The rows of this expert in the dense and in the pruned stream, paired by token.

        The streams may route a token differently. A token that only the pruned stream sends to this expert has no
        counterpart: it counts as if the dense stream had seen the pruned stream's row.

        Args:
            activation: Name of the activation.
            dense: Values of the dense stream by name.
            pruned: Values of the pruned stream by name.
        """
        if self.offsets is None:
            return dense[activation][self.index], pruned[activation][self.index]
        here = self._span(pruned[self.offsets])
        rows = pruned[activation][here]
        if all(dense[name] is pruned[name] for name in (activation, *self.reads)):
            return rows, rows
        if self.tokens is None:
            return rows, rows
        there = self._span(dense[self.offsets])
        place = {int(token): row for row, token in enumerate(dense[self.tokens][there].tolist())}
        paired = [place.get(int(token), -1) for token in pruned[self.tokens][here].tolist()]
        found = torch.as_tensor(rows)
        index = torch.tensor(paired, dtype=torch.int64, device=found.device)
        counterpart = torch.as_tensor(dense[activation][there])[index] if place else found
        return torch.where((index >= 0)[:, None], counterpart, found), rows

    def _span(self, offsets: Any) -> slice:
        first, last = [0, *offsets.tolist()][self.index : self.index + 2]
        return slice(int(first), int(last))


def name_part(weight: str, index: int | None) -> str:
    """Names one expert's matrix, such as `weight[3]`; with None as index, the whole weight."""
    return weight if index is None else f"{weight}[{index}]"


def split_part_name(name: str, stored: Iterable[str]) -> tuple[str, int | None]:
    """Splits a name into that of the whole weight and the index of the expert; it is the inverse of `name_part`.

    Args:
        name: Name of a whole weight or of one expert's matrix.
        stored: The names of all whole weights.

    Raises:
        KeyError: The name is neither of them.
    """
    if name in stored:
        return name, None
    weight, opened, index = name.removesuffix("]").rpartition("[")
    if not opened or not name.endswith("]") or not index.isdecimal():
        raise KeyError(name)
    return weight, int(index)


def replace_parts(
    weights: Mapping[str, np.ndarray[Any, Any]],
    stored: Mapping[str, Tensor],
    as_tensor: Callable[[np.ndarray[Any, Any]], Tensor],
    wanted: Callable[[str], bool] = lambda _: True,
) -> dict[str, Tensor]:
    """Puts new weights in the place of stored ones, of which none is changed.

    Args:
        weights: New weights by name of a whole weight or of one expert's matrix.
        stored: Every whole weight by name.
        as_tensor: Converts an array to a tensor.
        wanted: Tells for the name of a whole weight whether it is of interest.

    Returns:
        By name, the whole weights that change: the new ones, and copies of those of which only experts change.
    """
    result: dict[str, Tensor] = {}
    for name in weights:
        weight, index = split_part_name(name, stored)
        if not wanted(weight):
            continue
        array = weights[name]
        if index is None:
            result[weight] = as_tensor(array)
        else:
            if weight not in result:
                result[weight] = stored[weight].detach().clone()
            result[weight][index] = as_tensor(array)
    return result
