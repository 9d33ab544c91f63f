"""Whole runs on random valid graphs; `nox -s graphs` runs thousands of them."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graph_checks import (
    WrongGraphError,
    check_graph,
    expect_pattern,
    expect_same_outputs,
    expect_untouched,
    find_stored,
    main,
)
from tests.graphs import model, normal
from tests.random_graphs import RandomGraph, make_graph

PARTS, EACH = 20, 25
TWO = "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, u) y = Gemm<transB=1>(a, v) }"


@pytest.mark.parametrize("part", range(PARTS))
def test_random_graphs_are_pruned_where_they_can_be_and_nowhere_else(part: int, tmp_path: Path) -> None:
    for seed in range(part * EACH, (part + 1) * EACH):
        try:
            check_graph(seed, tmp_path / str(seed))
        except Exception as error:
            raise AssertionError(f"the graph of seed {seed} is wrong: {error}") from error


def test_the_graphs_hold_what_they_are_made_for() -> None:
    made = [make_graph(seed) for seed in range(PARTS * EACH)]
    operators = {node.op_type for _, proto in made for node in proto.graph.node}
    assert operators >= {"MatMul", "Gemm", "Conv", "Transpose", "Reshape", "Concat", "Split", "Softmax", "Relu", "Add"}
    assert operators >= {"Mul", "LayerNormalization", "Cast", "Identity", "Constant", "ReduceSum"}
    graphs = [graph for graph, _ in made]
    prunable = [len(graph.find_prunable({value.name for value in proto.graph.output})) for graph, proto in made]
    assert sum(prunable) > 200
    assert 0 in prunable
    uses = [some for graph in graphs for some in graph.uses.values()]
    assert any(len(some) > 1 for some in uses)
    assert any(len({use.stored for use in some}) > 1 for some in uses)
    assert any(use.groups > 1 for some in uses for use in some)
    assert {graph.half for graph in graphs} == {False, True}
    assert {type(graph.batch) for graph in graphs} == {int, str}
    assert any(len(proto.graph.output) > 1 for _, proto in made)


def test_a_seed_makes_the_same_graph_again() -> None:
    assert make_graph(7)[1] == make_graph(7)[1] != make_graph(8)[1]


def test_the_checks_of_the_pattern_can_fail() -> None:
    weights = {"u": normal(8, 8), "v": normal(8, 8)}
    for name in weights:
        proto = model(TWO, weights)
        with pytest.raises(WrongGraphError, match=rf"{name} has [34] of four"):
            expect_pattern(proto.graph, name, find_stored(proto.graph)[name])
    rows = np.array([1, 1, 0, 0, 0, 1, 0, 1], np.float32)
    for name, good in {"u": np.tile(rows[:, None], 8), "v": np.tile(rows, (8, 1))}.items():
        expect_pattern(model(TWO, weights | {name: good}).graph, name, good)
        with pytest.raises(WrongGraphError):
            expect_pattern(model(TWO, weights | {name: good.T}).graph, name, good.T)


def test_the_check_of_what_is_untouched_can_fail() -> None:
    weights = {"u": normal(8, 8), "v": normal(8, 8)}
    dense, sparse = model(TWO, weights), model(TWO, weights | {"u": normal(8, 8, seed=1)})
    expect_untouched(dense, sparse, {"u"})
    with pytest.raises(WrongGraphError, match="more than the pruned weights"):
        expect_untouched(dense, sparse, {"v"})


def test_the_check_of_outputs_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model(TWO, {"u": normal(8, 8), "v": normal(8, 8)})
    feeds = {"x": normal(3, 8)}
    expect_same_outputs(proto, feeds, half=False)
    monkeypatch.setattr("tests.graph_checks.run", lambda *_: [np.zeros((3, 8), np.float32)])
    with pytest.raises(WrongGraphError, match="outputs are"):
        expect_same_outputs(proto, feeds, half=False)


def test_a_graph_whose_weights_are_pruned_wrongly_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RandomGraph, "find_prunable", lambda _self, _outputs: {"none"})
    with pytest.raises(WrongGraphError, match="prunable \\['none'\\]"):
        check_graph(1, tmp_path)
    assert main(1, 2) == 1
    assert "seed 1: WrongGraphError: pruned are" in capsys.readouterr().out


def test_the_outcome_of_many_graphs_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("tests.graph_checks.write_results", lambda *given, **_: written.extend(map(str, given)))
    assert main(1, 2, writes=True) == 0
    name, rows, text = written
    assert (name, "'wrong': 0" in rows) == ("graphs", True)
    assert re.search(r"^Seeds from 1 on: 1 graphs, [1-9]\d* pruned weights, 0 wrong; \d+ s of processor time\.$", text)


def test_every_graph_is_valid() -> None:
    for seed in range(PARTS * EACH, PARTS * EACH + 100):
        onnx.checker.check_model(make_graph(seed)[1], full_check=True)
