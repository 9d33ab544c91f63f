"""Searches the order of a space's channels in which the layers that read them lose least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.passes.permute.find_spaces import Block, ChannelSpace
from prox24_export.passes.permute.labels import Ids
from prox24_export.solver.exchange import divide

DAMPING = 0.01  # added to each entry of the Gram matrix's diagonal, as a share of it
MOST_ROWS = 4096  # rows of all readers that the search looks at; more tell nothing that these do not
MANY_CHANNELS = 64  # from so many channels on there is one start, which bounds the time
STARTS = 8


@dataclass(frozen=True)
class Saliency:
    """What it costs a layer to leave out an entry of its weight.

    Attributes:
        cost: By entry, the least increase of the squared error of the layer's output where all others may adapt, as a
            share of the squared output [N, K]: `w² / [H⁻¹]ₖₖ / tr(W H Wᵀ)` (Hassibi and Stork, Optimal Brain Surgeon,
            NeurIPS 1992).
    """

    cost: Float[Tensor, "N K"]

    @classmethod
    def of(cls, weight: Float[Tensor, "N K"], gram: Float[Tensor, "K K"]) -> "Saliency":
        """Computes the cost of every entry.

        Args:
            weight: The dense weight.
            gram: `XᵀX` of the layer's input in the dense model, float64.

        Raises:
            torch.linalg.LinAlgError: The Gram matrix cannot be inverted.
        """
        damped = gram.clone()
        diagonal = damped.diagonal()
        diagonal.mul_(1 + DAMPING).add_(DAMPING * 1e-3 * float(diagonal.mean()))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped)).diagonal()
        wide = weight.double()
        energy = float(((wide @ gram) * wide).sum())
        return cls((wide.square() / inverse / max(energy, 1e-300)).float())


@dataclass(frozen=True)
class OrderedSpace:
    """A space with a new order of its channels.

    Attributes:
        space: The space.
        order: For each place, the channel that comes there.
        promised: The share by which the readers lose less together, as the search counts it.
        is_finished: Whether the search came to its end within its time.
    """

    space: ChannelSpace
    order: Ids
    promised: float
    is_finished: bool = True

    @property
    def is_identity(self) -> bool:
        """Whether every channel stays where it is."""
        return bool(np.array_equal(self.order, np.arange(len(self.order))))


def search_order(
    space: ChannelSpace, saliencies: Mapping[str, Saliency], *, seed: int, seconds: float = float("inf")
) -> OrderedSpace:
    """Searches an order for the channels of a space, block by block.

    Args:
        space: A free space.
        saliencies: What its readers lose, by name of the layer; layers without one do not count.
        seed: Of the rows that are looked at, and of random starts.
        seconds: The most time that it may take.
    """
    order = np.arange(space.size, dtype=np.int64)
    before = after = 0.0
    is_finished = True
    for number, block in enumerate(space.blocks):
        costs = _gather_costs(block, saliencies, seed)
        starts = STARTS if block.groups.size < MANY_CHANNELS else 1
        share = seconds / (len(space.blocks) - number)
        found = divide(costs, starts=starts, seed=seed, seconds=share)
        seconds -= min(share, seconds)
        before, after = before + found.before, after + found.after
        is_finished &= found.is_finished
        channels = block.groups.reshape(-1)
        order[channels] = channels[_settle(found.groups).reshape(-1)]
    return OrderedSpace(space, order, 1 - after / before if before > 0 else 0.0, is_finished)


def _gather_costs(block: Block, saliencies: Mapping[str, Saliency], seed: int) -> npt.NDArray[np.float32]:
    """Costs of a block's channels, in the order of its groups, in the rows of all readers [channels, rows]."""
    parts: list[npt.NDArray[np.float32]] = []
    for reader in block.readers:
        if reader.layer in saliencies:
            cost = saliencies[reader.layer].cost.numpy()
            columns = reader.columns.reshape(block.groups.size, -1)
            parts.append(cost[:, columns].transpose(1, 0, 2).reshape(block.groups.size, -1))
    costs = np.concatenate(parts, 1) if parts else np.zeros((block.groups.size, 0), np.float32)
    if costs.shape[1] > MOST_ROWS:
        chosen = np.random.default_rng(seed).choice(costs.shape[1], MOST_ROWS, replace=False)
        costs = costs[:, np.sort(chosen)]
    return costs


def _settle(groups: Ids) -> Ids:
    """Orders groups, and channels within each, so that as many as possible stay near where they were."""
    inside = np.sort(groups, 1)
    ordered: Ids = inside[np.argsort(inside[:, 0])]
    return ordered


def reorder(entries: Ids, order: Ids, size: int) -> Ids:
    """The order of the entries along an axis where the channels of a space come in a new order.

    Args:
        entries: The entries of each channel along the axis [channels, entries of each].
        order: For each place, the channel that comes there.
        size: Entries along the axis.
    """
    result = np.arange(size, dtype=np.int64)
    result[entries.reshape(-1)] = entries[order].reshape(-1)
    return result


def compose(orders: Sequence[OrderedSpace]) -> dict[tuple[str, int], Ids]:
    """The order of the entries along every axis of a stored tensor that changes, by tensor and axis.

    Args:
        orders: The spaces with their new orders. No two have an entry of an axis in common.
    """
    result: dict[tuple[str, int], Ids] = {}
    for ordered in orders:
        for place in ordered.space.places:
            key = place.tensor, place.axis
            moved = reorder(place.entries, ordered.order, place.size)
            known = result.get(key)
            result[key] = moved if known is None else known[moved]
    return {key: order for key, order in result.items() if not np.array_equal(order, np.arange(len(order)))}
