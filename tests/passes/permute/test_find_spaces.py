"""Channel spaces of ONNX graphs: what is stored where, and twins of random graphs."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.permute.aten_trace import trace_to_aten
from prox24_export.passes.permute.find_spaces import ChannelSpace, FindSpaces, FoundSpaces, StoredEntries
from tests.graph_checks import draw_feeds
from tests.graphs import model, normal, opened, save
from tests.passes.permute.twins import twin
from tests.random_graphs import make_graph

CONVS = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
    a = Conv<pads = [1,1,1,1]>(x, w0, b0) n = BatchNormalization(a, s, t, m, v) r = Relu(n)
    d = Conv<group = 8, pads = [1,1,1,1]>(r, w1) y = Conv(d, w2) }"""
WEIGHTS = {
    "w0": normal(8, 4, 3, 3),
    "b0": normal(8),
    **{name: np.abs(normal(8, seed=seed)) + 1 for seed, name in enumerate("stmv")},
    "w1": normal(8, 1, 3, 3),
    "w2": normal(4, 8, 1, 1),
}
IMAGE = {"x": normal(2, 4, 6, 6)}


def find(graph: OnnxGraph, feeds: dict[str, np.ndarray]) -> list[ChannelSpace]:
    linears = FindLinears().call(graph=graph).linears
    return list(FindSpaces().call(trace=trace_to_aten(graph, feeds), linears=linears).spaces)


def test_a_space_is_stored_in_every_tensor_that_has_its_channels(tmp_path: Path) -> None:
    stream, inner = find(opened(model(CONVS, WEIGHTS), tmp_path), IMAGE)
    assert (stream.size, stream.reason) == (4, "it has only 4 channels")
    places = {(place.tensor, place.axis) for place in inner.places}
    assert places == {("w0", 0), ("b0", 0), ("s", 0), ("t", 0), ("m", 0), ("v", 0), ("w1", 0), ("w2", 1)}
    assert inner.readers == ("Conv:y",)
    assert inner.blocks[0].readers[0].columns.shape == (2, 4, 1)


def test_a_stored_tensor_that_is_also_an_output_is_fixed(tmp_path: Path) -> None:
    graph = CONVS.replace("=> (float[N,4,6,6] y)", "=> (float[N,4,6,6] y, float[8] b0)")
    _, inner = find(opened(model(graph, WEIGHTS), tmp_path), IMAGE)
    assert inner.reason == "its channels are those of a graph output"


def test_a_weight_that_reads_two_spaces_joins_them(tmp_path: Path) -> None:
    graph = """g (float[N,4] x) => (float[N,4] y) {
        a = MatMul(x, p) b = MatMul(x, q) c = MatMul(a, w) d = MatMul(b, w) y = Add(c, d) }"""
    weights = {"p": normal(4, 8), "q": normal(4, 8, seed=1), "w": normal(8, 4)}
    graph_ = opened(model(graph, weights), tmp_path)
    space = next(space for space in find(graph_, {"x": normal(3, 4)}) if not space.reason)
    assert {(place.tensor, place.axis) for place in space.places} == {("p", 1), ("q", 1), ("w", 0)}


def test_an_entry_in_two_spaces_is_a_fault_of_the_program() -> None:
    place = StoredEntries("w", 0, np.arange(8).reshape(8, 1), 8)
    space = ChannelSpace("layer", 8, (), (place,), ("layer",))
    with pytest.raises(RuntimeError, match="an entry of w is in two channel spaces"):
        FindSpaces.ensures(FoundSpaces((space, space)))


def test_twins_of_random_graphs_compute_the_same(tmp_path: Path) -> None:
    moved = 0
    for seed in range(60):
        graph, dense = make_graph(seed)
        if not graph.half:
            opened_graph = OnnxGraph(save(dense, tmp_path, f"{seed}.onnx"))
            found = twin(opened_graph, draw_feeds(dense, graph.random), seed, wide=False)
            assert found.deviation < 1e-3, f"seed {seed}: {found.deviation}"
            moved += found.moved
    assert moved > 15


def test_bytes_are_moved_and_nothing_is_computed(tmp_path: Path) -> None:
    found = twin(opened(model(CONVS, WEIGHTS), tmp_path), IMAGE)
    assert found.moved == 8
    assert found.deviation < 1e-12
    assert onnx.load(tmp_path / "dense.onnx") == model(CONVS, WEIGHTS)


def test_an_initializer_that_a_caller_may_replace_is_fixed(tmp_path: Path) -> None:
    proto = model(CONVS, WEIGHTS)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("b0", onnx.TensorProto.FLOAT, [8]))
    _, inner = find(opened(proto, tmp_path), IMAGE)
    assert inner.reason == "it meets a constant that the model does not store"


def test_the_larger_of_two_tensors_is_elementwise_and_a_mask_is_an_order(tmp_path: Path) -> None:
    graph = """g (float[N,4] x) => (float[N,4] y) {
        a = MatMul(x, p) b = MatMul(x, q) c = Max(a, b) y = MatMul(c, w) }"""
    weights = {"p": normal(4, 8), "q": normal(4, 8, seed=1), "w": normal(8, 4)}
    found = twin(opened(model(graph, weights), tmp_path), {"x": normal(3, 4)})
    assert found.free() == {"MatMul:y": [8]}
    assert found.deviation < 1e-12


def test_initializers_that_are_all_inputs_are_an_exporters_habit(tmp_path: Path) -> None:
    proto = model(CONVS, WEIGHTS)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    _, inner = find(opened(proto, tmp_path), IMAGE)
    assert inner.reason == ""
