"""What the streams carry: the same values whether they are in memory or on disk, each written once."""

from pathlib import Path

import numpy as np
import pytest

from prox24_export.passes.calibrate.frontier import Frontier, Spill

FEEDS = [{"x": np.arange(4.0), "mask": np.ones(3)}, {"x": np.arange(8.0), "mask": np.zeros(3)}]


@pytest.mark.parametrize("limit", [None, 0, 40, 10_000])
def test_values_come_back_and_shared_ones_stay_shared(limit: int | None, tmp_path: Path) -> None:
    frontier = Frontier(FEEDS.__getitem__, None if limit is None else Spill(tmp_path, limit))
    dense, pruned = frontier.take(1)
    assert dense["x"] is pruned["x"] is FEEDS[1]["x"]
    own = np.full(5, 2.0)
    frontier.put(1, {"mask": dense["mask"], "h": np.ones(5)}, {"mask": pruned["mask"], "h": own})
    dense, pruned = frontier.take(1)
    assert dense["mask"] is pruned["mask"]
    np.testing.assert_array_equal(dense["mask"], FEEDS[1]["mask"])
    np.testing.assert_array_equal(dense["h"], np.ones(5))
    np.testing.assert_array_equal(pruned["h"], own)
    np.testing.assert_array_equal(frontier.take(0)[0]["x"], FEEDS[0]["x"])


def test_feeds_are_read_once_so_that_both_streams_share_them() -> None:
    frontier = Frontier(lambda _batch: {"x": np.zeros(2)})
    dense, pruned = frontier.take(0)
    assert dense["x"] is pruned["x"]


def test_what_stays_is_not_written_again_and_what_goes_is_removed(tmp_path: Path) -> None:
    frontier = Frontier(FEEDS.__getitem__, Spill(tmp_path))
    dense, pruned = frontier.take(0)
    h = np.ones(2)
    frontier.put(0, dense | {"h": h, "k": np.ones(3)}, pruned | {"h": h, "k": np.zeros(3)})
    before = set(tmp_path.iterdir())
    assert len(before) == 3  # feeds are not written, and what both streams share is written once
    dense, pruned = frontier.take(0)
    assert dense["x"] is pruned["x"] is FEEDS[0]["x"]
    frontier.put(0, {"h": dense["h"], "l": np.ones(2)}, {"h": pruned["h"], "l": np.zeros(2)})
    after = set(tmp_path.iterdir())
    assert len(after & before) == 1  # "h", whose file stays; "k" is gone
    assert len(after - before) == 2
    assert set(frontier.take(0)[0]) == {"h", "l"}
    frontier.put(0, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_room_that_was_freed_is_used_again(tmp_path: Path) -> None:
    frontier = Frontier(FEEDS.__getitem__, Spill(tmp_path, 100))
    frontier.put(0, {"a": np.zeros(12)}, {})
    frontier.put(1, {"b": np.zeros(12)}, {})
    assert len(list(tmp_path.iterdir())) == 1
    frontier.put(0, {}, {})
    frontier.put(1, {}, {})
    frontier.put(1, {"c": np.zeros(12)}, {})
    assert list(tmp_path.iterdir()) == []
