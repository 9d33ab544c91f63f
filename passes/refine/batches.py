"""Batches for refinement: samples of equal shapes are joined, in a seeded order, and some are blended with others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import torch
from torch import Tensor

from prox24_export.passes.refine.views import Inputs, Views

EPOCH = 1_000_003  # the distance between the seeds of consecutive runs, so that their epochs share none


class ChainedInputs(Sequence[Inputs]):
    """Inputs of several sequences, one after the other; each is read when it is asked for."""

    def __init__(self, *parts: Sequence[Inputs]) -> None:
        """Takes the sequences."""
        self._parts = parts

    def __len__(self) -> int:
        """The number of samples."""
        return sum(map(len, self._parts))

    @overload
    def __getitem__(self, index: int) -> Inputs: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Inputs]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Reads the inputs of one sample, or of those of a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        for part in self._parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(index)


@dataclass(frozen=True)
class Samples:
    """Calibration samples, which are given out in batches.

    Attributes:
        samples: The samples. Each has a tensor for every input.
        batch: The most samples that are joined in a batch.
        joinable: Whether the first axis of every input may have any size.
    """

    samples: Sequence[Inputs]
    batch: int
    joinable: bool = True

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.samples)

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return sum(1 for _ in self._indices(range(len(self))))

    def in_order(self) -> Iterator[Inputs]:
        """Yields every sample once, in batches, in the order of the samples."""
        for group in self._indices(range(len(self))):
            yield self._joined(group)

    def shuffled(self, epoch: int, seed: int, *, mixed: bool, views: Views | None = None) -> Iterator[Inputs]:
        """Yields every sample once, in batches, in an order that depends on the epoch and the seed.

        Args:
            epoch: Number of the epoch.
            seed: Seed of the run.
            mixed: Whether samples are blended, by `mix`.
            views: What may be done to images, by `Views.changed`. None changes nothing.
        """
        generator = torch.Generator().manual_seed(seed * EPOCH + epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        for group in self._indices(order):
            feeds = self._joined(group)
            feeds = views.changed(feeds, generator) if views else feeds
            yield mix(feeds, generator) if mixed and len(group) > 1 else feeds

    @cached_property
    def _shapes(self) -> list[tuple[torch.Size, ...]]:
        """The shapes of every sample behind the first axis; equal ones are one object."""
        known: dict[tuple[torch.Size, ...], tuple[torch.Size, ...]] = {}
        shapes = (tuple(feed.shape[1:] for feed in feeds) for feeds in self.samples)
        return [known.setdefault(shape, shape) for shape in shapes]

    def _indices(self, order: Sequence[int]) -> Iterator[list[int]]:
        waiting: dict[tuple[torch.Size, ...], list[int]] = {}
        size = self.batch if self.joinable else 1
        for index in order:
            key = self._shapes[index]
            waiting.setdefault(key, []).append(index)
            if len(waiting[key]) == size:
                yield waiting.pop(key)
        yield from waiting.values()

    def _joined(self, group: Sequence[int]) -> Inputs:
        members = [self.samples[index] for index in group]
        if len(members) == 1:
            return members[0]
        return tuple(torch.cat(feeds) if feeds[0].ndim else feeds[0] for feeds in zip(*members, strict=True))


def mix(feeds: Inputs, generator: torch.Generator) -> Inputs:
    """Blends half of the rows of a batch, drawn at random, with another row each: `l·x + (1−l)·y`, `l` in [½, 1].

    The dense network's output is the target whatever the input is, so that blends are as good as new samples. All
    inputs of a row share their partner and `l`. Integers stay as they are, because nothing lies between two of them. So
    do additive masks with −Inf: what one of two leaves out would be left out of the blend.

    Args:
        feeds: The inputs, with rows along their first axis.
        generator: Draws the partners and `l`.
    """
    if not any(feed.is_floating_point() for feed in feeds):
        return feeds
    rows = max(len(feed) for feed in feeds if feed.ndim)
    partner = torch.randint(rows, (rows,), generator=generator)
    share = 1 - 0.5 * torch.rand(rows, generator=generator)
    share = torch.where(torch.rand(rows, generator=generator) < 0.5, share, torch.ones(()))  # noqa: PLR2004 (half)
    return tuple(_blend(feed, partner, share) if _can_blend(feed, rows) else feed for feed in feeds)


def _can_blend(feed: Tensor, rows: int) -> bool:
    return feed.is_floating_point() and feed.ndim > 0 and len(feed) == rows and not bool(feed.isinf().any())


def _blend(feed: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    part = share.reshape(-1, *[1] * (feed.ndim - 1)).to(feed.dtype)
    return feed * part + feed[partner] * (1 - part)
