"""Batches: every sample once, and which inputs are blended with others."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from prox24_export.passes.refine.batches import Samples, mix
from tests.graphs import normal


def test_floats_are_blended_and_integers_and_masks_with_infinities_are_not() -> None:
    rows = torch.from_numpy(normal(32, 4))
    finite = torch.from_numpy(np.where(normal(32, 4, seed=1) > 1, -100, 0).astype(np.float32))
    infinite = torch.where(finite < 0, -torch.inf, 0.0)
    feeds = (rows, torch.arange(32), finite, infinite)
    blended, integers, mask, kept = mix(feeds, torch.Generator().manual_seed(0))
    assert not torch.equal(blended, rows)
    assert bool(torch.isfinite(blended).all())
    assert not torch.equal(mask, finite)
    assert torch.equal(integers, feeds[1])
    assert torch.equal(kept, infinite)


def shapes_of(batches: Iterator[tuple[Tensor, ...]]) -> list[tuple[int, ...]]:
    return sorted(tuple(batch[0].shape) for batch in batches)


def test_batches_join_equal_shapes_and_hold_every_sample_once() -> None:
    samples = [(torch.full((1, 2 + index % 2), float(index)),) for index in range(10)]
    data = Samples(samples, 4)
    assert shapes_of(data.shuffled(1, 0, mixed=False)) == [(1, 2), (1, 3), (4, 2), (4, 3)]
    values = torch.cat([batch[0][:, 0] for batch in data.shuffled(1, 0, mixed=False)])
    assert sorted(values.tolist()) == list(range(10))
    assert data.steps == 4
    assert Samples(samples, 4, joinable=False).steps == 10


def test_blends_are_between_two_samples_and_integers_stay() -> None:
    floats, integers = torch.arange(64.0)[:, None], torch.arange(64)[:, None]
    mixed, same = mix((floats, integers), torch.Generator().manual_seed(0))
    assert torch.equal(same, integers)
    moved = int((mixed != floats).sum())
    assert 16 < moved < 48
    assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 63
    assert mix((integers,), torch.Generator())[0] is integers
