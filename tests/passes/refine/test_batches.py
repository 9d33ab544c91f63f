"""Batches that are blended: which inputs are, and which stay as they are."""

import numpy as np
import torch

from prox24_export.passes.refine.batches import mix
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
