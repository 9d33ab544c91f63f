"""Stages: every node once, nothing kept that nobody reads again."""

from pathlib import Path

import numpy as np
import pytest

from prox24_export.passes.calibrate.schedule import Stage, schedule
from prox24_export.passes.front_onnx.graph import OnnxGraph
from tests.graphs import linears, model, normal, opened
from tests.passes.calibrate.networks import residual_blocks


def blocks(count: int, folder: Path) -> OnnxGraph:
    return opened(residual_blocks(count), folder)


def stages_of(text: str, folder: Path, *weights: str) -> list[Stage]:
    graph = opened(model(text, {name: normal(8, 8, seed=place) for place, name in enumerate(weights)}), folder)
    return schedule(graph, linears(graph))


def shown(stages: list[Stage]) -> list[tuple[list[str], list[str], set[str]]]:
    """(outputs of the nodes, layers solved, values kept) of every stage."""
    return [
        ([node.outputs[0] for node in stage.nodes], [linear.weight for linear in stage.linears], set(stage.kept))
        for stage in stages
    ]


def test_a_chain_has_one_layer_a_stage_and_keeps_one_value(tmp_path: Path) -> None:
    text = "g (float[2,8] x) => (float[2,8] y) { a = MatMul(x, u) b = Relu(a) c = MatMul(b, v) y = Relu(c) }"
    assert shown(stages_of(text, tmp_path, "u", "v")) == [([], ["u"], {"x"}), (["a", "b"], ["v"], set())]


def test_layers_that_read_one_value_or_do_not_depend_on_each_other_share_a_stage(tmp_path: Path) -> None:
    text = """g (float[2,8] x) => (float[2,8] y) {
        q = MatMul(x, u) k = MatMul(x, v) t = Tanh(x) z = MatMul(t, w)
        s = Add(q, k) r = Add(s, z) y = MatMul(r, o) }"""
    assert shown(stages_of(text, tmp_path, "u", "v", "w", "o")) == [
        (["t"], ["u", "v", "w"], {"x", "t"}),
        (["q", "k", "z", "s", "r"], ["o"], set()),
    ]


def test_a_residual_value_is_kept_until_its_last_reader_has_run(tmp_path: Path) -> None:
    text = """g (float[2,8] x) => (float[2,8] y) {
        a = MatMul(x, u) b = MatMul(a, v) c = MatMul(b, w) d = Add(c, x) e = Add(d, a) y = MatMul(e, o) }"""
    assert [kept for _, _, kept in shown(stages_of(text, tmp_path, "u", "v", "w", "o"))] == [
        {"x"},
        {"x", "a"},
        {"x", "a", "b"},
        set(),
    ]


def test_a_weight_used_at_two_depths_is_solved_at_the_deeper_one(tmp_path: Path) -> None:
    text = "g (float[2,8] x) => (float[2,8] y) { a = MatMul(x, w) b = MatMul(a, u) c = MatMul(b, w) y = Relu(c) }"
    stages = stages_of(text, tmp_path, "w", "u")
    assert [[linear.weight for linear in stage.linears] for stage in stages] == [[], ["u"], ["w"]]
    assert [[use.activation for _, use in stage.observed] for stage in stages] == [["x"], ["a"], ["b"]]


def test_shape_nodes_of_an_input_run_once_and_are_kept_for_later(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[m,8] y) {
        s = Shape(x) a = MatMul(x, u) r = Reshape(a, s) y = MatMul(r, v) }"""
    assert shown(stages_of(text, tmp_path, "u", "v")) == [
        (["s"], ["u"], {"x", "s"}),
        (["a", "r"], ["v"], set()),
    ]


@pytest.mark.parametrize("count", [1, 4, 12])
def test_every_node_that_a_layer_depends_on_is_in_exactly_one_stage(count: int, tmp_path: Path) -> None:
    graph = blocks(count, tmp_path)
    stages = schedule(graph, linears(graph))
    assert len(stages) == 2 * count
    scheduled = [node.index for stage in stages for node in stage.nodes]
    assert len(scheduled) == len(set(scheduled))
    outputs = {node.outputs[0] for stage in stages for node in stage.nodes}
    behind_the_last_layer = {f"b{count - 1}", f"h{count}", "z", "y"}
    assert outputs == {node.outputs[0] for node in graph.nodes} - behind_the_last_layer
    assert max(len(stage.kept) for stage in stages) == min(count, 2), "what is kept does not grow with depth"


def test_a_stage_reads_only_inputs_and_what_the_stage_before_kept(tmp_path: Path) -> None:
    graph = blocks(3, tmp_path)
    available = {"x"}
    for stage in schedule(graph, linears(graph)):
        for node in stage.nodes:
            assert set(node.inputs) - graph.constants <= available
            available |= set(node.outputs)
        assert {use.activation for _, use in stage.observed} <= available
        available &= stage.kept


def test_a_file_that_is_not_in_topological_order_is_scheduled_all_the_same(tmp_path: Path) -> None:
    text = "g (float[2,8] x) => (float[2,8] y) { y = MatMul(c, v) c = Add(b, one) b = Relu(a) a = MatMul(x, u) }"
    weights = {"u": normal(8, 8), "v": normal(8, 8, seed=1), "one": np.ones(1, np.float32)}
    graph = opened(model(text, weights), tmp_path)
    assert [node.outputs[0] for node in graph.nodes] == ["a", "b", "c", "y"]
    stages = schedule(graph, linears(graph))
    assert shown(stages) == [([], ["u"], {"x"}), (["a", "b", "c"], ["v"], set())]


def test_no_layer_means_no_stage(tmp_path: Path) -> None:
    assert stages_of("g (float[2,8] x) => (float[2,8] y) { y = Relu(x) }", tmp_path) == []
