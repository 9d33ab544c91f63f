"""Runs of batches: cut by the data alone, and summed up to the same bits by anybody."""

from collections import deque
from pathlib import Path

import pytest
import torch

from prox24_export.passes.calibrate.calibrate import Calibrate, collect_observations
from prox24_export.passes.calibrate.moments import Observation
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.shards import MOST_SHARDS, cut_shards
from prox24_export.passes.calibrate.streams import Batch, Streams
from prox24_export.passes.calibrate.sums import StageSums
from prox24_export.passes.graph.arrays import Array
from tests.graphs import linears, magnitude, normal, opened
from tests.passes.calibrate.networks import residual_blocks


def batches(fit: int, choice: int) -> list[Batch]:
    parts = ["fit"] * fit + ["choice"] * choice
    return [Batch(part, {"x": normal(5, 8, seed=seed)}) for seed, part in enumerate(parts)]


@pytest.mark.parametrize(
    ("fit", "choice", "sizes"),
    [
        (1, 0, [1]),
        (9, 0, [9]),  # with no other part, whose sums would take the place, there is one run
        (3, 2, [1, 1, 1, 2]),
        (19, 4, [2, 2, 3, 2, 2, 3, 2, 3, 4]),
    ],
)
def test_the_runs_are_cut_by_the_number_of_batches(fit: int, choice: int, sizes: list[int]) -> None:
    shards = cut_shards(batches(fit, choice))
    assert [len(shard) for shard in shards] == sizes
    assert [place for shard in shards for place in shard] == list(range(fit + choice))
    assert sum(shard.stop <= fit for shard in shards) <= MOST_SHARDS


def observe_apart(given: list[Batch], folder: Path) -> dict[str, Observation]:
    """Each run by streams of its own, from the first stage on, as workers do it."""
    graph = opened(residual_blocks(2), folder)
    stages, shards, seen = schedule(graph, linears(graph)), cut_shards(given), dict[str, Observation]()
    streams = [Streams(graph, given) for _ in shards]
    weights: dict[str, Array] = {}
    for stage in stages:
        totals = StageSums()
        for shard, own in zip(shards, streams, strict=True):
            totals.add(Calibrate().sum_up(own, stage, own.advance(stage, weights, places=shard)))
        seen |= collect_observations({}, stage, totals)
        weights |= {linear.weight: magnitude(graph, linear) for linear in stage.linears}
    return seen


def test_runs_that_are_summed_up_apart_come_to_the_same_bits(tmp_path: Path) -> None:
    given = batches(5, 2)
    apart = observe_apart(given, tmp_path)
    graph = opened(residual_blocks(2), tmp_path)
    streams, weights = Streams(graph, given), dict[str, Array]()
    for stage in schedule(graph, linears(graph)):
        seen = Calibrate().call(streams=streams, stage=stage, weights=weights).observations
        for name, one in seen.items():
            other = apart[name]
            assert one.choice is not None
            assert other.choice is not None
            for left, right in ((one.fit, other.fit), (one.choice, other.choice)):
                assert torch.equal(left.gram, right.gram)
                assert torch.equal(left.cross, right.cross)
                assert torch.equal(left.dense, right.dense)
                assert left.tokens == right.tokens
            assert one.residuals.keys() == other.residuals.keys()
            assert all(torch.equal(one.residuals[part], other.residuals[part]) for part in one.residuals)
        weights |= {linear.weight: magnitude(graph, linear) for linear in stage.linears}


def test_only_some_batches_are_run(tmp_path: Path) -> None:
    graph = opened(residual_blocks(1), tmp_path)
    first, *_ = schedule(graph, linears(graph))
    streams = Streams(graph, batches(4, 0))
    assert [index for index, _ in streams.advance(first, {}, places=range(1, 3))] == [1, 2]
    assert streams.executions == 2 * len(first.nodes)
    deque(streams.advance(first, {}, places=[0, 3]), maxlen=0)
    assert streams.executions == 4 * len(first.nodes)
