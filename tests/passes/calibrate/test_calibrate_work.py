"""Calibration runs as few nodes and holds as few values as it promises, and tells its progress."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import Batch, Streams
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Node
from tests.graphs import Walk, linears, normal, opened
from tests.passes.calibrate.networks import convolutional, residual_blocks


class Spy:
    """Counts, beside the pass's own count, which nodes are run and which values are held."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.executions = 0
        self.held: list[set[str]] = []
        compiled = OnnxGraph.compile

        def compile_and_count(
            graph: OnnxGraph, nodes: Sequence[Node], sample: Feeds, fetches: Sequence[str], weights: Mapping[str, Array]
        ) -> Callable[[Feeds], dict[str, Array]]:
            call = compiled(graph, nodes, sample, fetches, weights)

            def counted(feeds: Feeds) -> dict[str, Array]:
                self.executions += len(nodes)
                self.held.append(set(feeds))
                return call(feeds)

            return counted

        patch.setattr(OnnxGraph, "compile", compile_and_count)


@pytest.mark.parametrize("count", [4, 12])
def test_the_work_is_two_passes_at_most_whatever_the_depth(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    proto = residual_blocks(count)
    walk = Walk(opened(proto, tmp_path), [{"x": normal(4, 8, seed=seed)} for seed in (1, 2, 3)])
    assert walk.streams.one_pass == 3 * len(proto.graph.node)
    assert spy.executions == walk.streams.executions
    assert 1.5 * walk.streams.one_pass < spy.executions <= 2 * walk.streams.one_pass


def test_values_are_dropped_once_nothing_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    Walk(opened(residual_blocks(6), tmp_path), [{"x": normal(4, 8)}])
    assert max(map(len, spy.held)) == 2, "the input of the layer and the residual beside it"
    assert not any("x" in held for held in spy.held[1:])


def test_advance_ticks_once_a_batch(tmp_path: Path) -> None:
    graph = opened(convolutional(), tmp_path)
    (stage,) = schedule(graph, linears(graph))
    ticks: list[None] = []
    batches = [Batch("fit", {"x": normal(1, 4, 6, 6, seed=seed)}) for seed in range(3)]
    Calibrate().call(streams=Streams(graph, batches), stage=stage, weights={}, tick=lambda: ticks.append(None))
    assert len(ticks) == 3


def test_a_model_of_one_stage_runs_once_for_both_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    Walk(opened(convolutional(), tmp_path), [{"x": normal(1, 4, 6, 6)}])
    assert spy.executions == 1
