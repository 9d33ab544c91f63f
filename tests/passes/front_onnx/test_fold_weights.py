"""Weights that a model computes from constants: stored in the copy, which computes what the file does."""

# ruff: noqa: E501 (one graph, one line)

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.rewrite_weights import RewriteWeights
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Reason, Skipped
from prox24_export.passes.verify_pattern import VerifyPattern
from tests.graphs import BF16, found, is_two_four, linears, model, normal, opened, rewritten, run, save

X = "float[2,8] x"
W = normal(8, 12)
THREE = {"w": normal(36, 8), "sizes": np.array([12, 12, 12])}
SPLIT = "a, b, c = Split<axis = 0>(w, sizes) q = Gemm<transB = 1>(x, a) k = Gemm<transB = 1>(x, b)"
NORMED = "n = ReduceL2<axes = [1, 2]>(w) d = Div(w, n) v = Mul(d, g) y = Conv(x, v)"
FOLDED: dict[str, tuple[str, dict[str, Array], dict[str, str]]] = {
    "Split, both read": (f"g ({X}) => (float[2,12] q, float[2,12] k) {{ {SPLIT} }}", THREE, {"a": "Split", "b": "Split"}),
    "Slice": (f"g ({X}) => (float[2,12] y) {{ v = Slice(w, f, t, i) y = MatMul(x, v) }}", {"w": normal(8, 36), "f": np.array([12]), "t": np.array([24]), "i": np.array([1])}, {"v": "Slice"}),
    "Gather of one of many": (f"g ({X}) => (float[2,12] y) {{ v = Gather(w, i) y = MatMul(x, v) }}", {"w": normal(3, 8, 12), "i": np.array(1)}, {"v": "Gather"}),
    "Concat": (f"g ({X}) => (float[2,12] y) {{ v = Concat<axis = 0>(a, b) y = MatMul(x, v) }}", {"a": normal(3, 12), "b": normal(5, 12)}, {"v": "Concat"}),
    "weight norm": (f"g (float[1,8,9] x) => (float[1,4,L] y) {{ {NORMED} }}", {"w": normal(4, 8, 3), "g": normal(4, 1, 1)}, {"v": "Mul"}),
    "low rank added": (f"g ({X}) => (float[2,12] y) {{ p = MatMul(a, b) v = Add(w, p) y = MatMul(x, v) }}", {"w": W, "a": normal(8, 2), "b": normal(2, 12)}, {"v": "Add"}),
    "part of a vector": (f"g ({X}) => (float[2,12] y) {{ p = Slice(w, f, t) r = Reshape(p, s) y = Gemm<transB = 1>(x, r) }}", {"w": normal(200), "f": np.array([8]), "t": np.array([104]), "s": np.array([12, 8])}, {"p": "Slice"}),
    "used in two layouts": (f"g ({X}) => (float[2,12] y, float[2,12] z) {{ m = Mul(w, g) t = Transpose(m) y = MatMul(x, m) z = Gemm<transB = 1>(x, t) }}", {"w": W, "g": normal(12)}, {"m": "Mul"}),
    "float16": ("g (float16[2,8] x) => (float16[2,12] y) { v = Mul(w, g) y = MatMul(x, v) }", {"w": normal(8, 12, dtype=np.float16), "g": normal(12, dtype=np.float16)}, {"v": "Mul"}),
    "float64": ("g (double[2,8] x) => (double[2,12] y) { v = Mul(w, g) y = MatMul(x, v) }", {"w": normal(8, 12, dtype=np.float64), "g": normal(12, dtype=np.float64)}, {"v": "Mul"}),
}  # fmt: skip


def make_feeds(graph: OnnxGraph) -> dict[str, Array]:
    return {
        value.name: normal(*(size if isinstance(size, int) else 2 for size in value.shape or ()), dtype=value.dtype)
        for value in graph.inputs
    }


@pytest.mark.parametrize("case", FOLDED)
def test_a_folded_weight_is_pruned_and_the_copy_computes_what_the_file_does(case: str, tmp_path: Path) -> None:
    text, weights, wanted = FOLDED[case]
    proto = model(text, weights, opset=17 if case != "weight norm" else 13)
    graph = opened(proto, tmp_path)
    feeds = make_feeds(graph)
    assert graph.folded == wanted
    onnx.checker.check_model(graph.proto)
    for ours, theirs in zip(run(graph.proto, feeds), run(proto, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=5e-3 if case == "float16" else 0)
    layers = linears(graph)
    assert {layer.weight for layer in layers} == set(graph.folded)
    for layer in layers:
        assert layer.notes[0] == f"its weight was computed by {graph.folded[layer.weight]}: it is stored folded"
        assert layer.dtype == str(next(iter(weights.values())).dtype)
    read = {name for node in graph.proto.graph.node for name in node.input}
    assert {tensor.name for tensor in graph.proto.graph.initializer} <= read, "what nobody reads is not stored"
    for external in (0, 1 << 30):
        again = OnnxGraph(rewritten(graph, tmp_path / str(external), external_above=external))
        assert not again.folded
        assert VerifyPattern().call(graph=again, linears=layers).uses
        assert all(is_two_four(layer.layout.to_matrix(again.stored(layer.weight))) for layer in layers)


def test_the_folded_value_is_the_one_that_onnx_runtime_computes(tmp_path: Path) -> None:
    w, g = normal(4, 8, 3), normal(4, 1, 1)
    proto = model(f"g (float[1,8,9] x) => (float[1,4,L] y) {{ {NORMED} }}", {"w": w, "g": g}, opset=13)
    expected = g * w / np.sqrt((w.astype(np.float64) ** 2).sum((1, 2), keepdims=True))
    np.testing.assert_allclose(opened(proto, tmp_path).stored("v"), expected, rtol=1e-6)


def test_bfloat16_is_computed_in_float32_and_rounded_once(tmp_path: Path) -> None:
    w, g = normal(8, 12).astype(BF16), normal(12).astype(BF16)
    text = "g (bfloat16[2,8] x) => (bfloat16[2,12] y) { v = Mul(w, g) y = MatMul(x, v) }"
    graph = opened(model(text, {"w": w, "g": g}), tmp_path)
    (layer,) = linears(graph)
    assert (layer.weight, layer.dtype) == ("v", "bfloat16")
    np.testing.assert_array_equal(graph.stored("v"), (w.astype(np.float32) * g.astype(np.float32)).astype(BF16))
    x = normal(2, 8)
    (y,) = graph.runner()({"x": x})
    np.testing.assert_allclose(y, x @ graph.stored("v").astype(np.float32), rtol=1e-5, atol=1e-5)


def test_a_weight_used_in_two_layouts_is_one_weight(tmp_path: Path) -> None:
    text, weights, _ = FOLDED["used in two layouts"]
    graph = opened(model(text, weights), tmp_path)
    (layer,) = linears(graph)
    assert (layer.weight, len(layer.uses)) == ("m", 2)
    assert [tensor.name for tensor in graph.proto.graph.initializer] == ["m"]


def test_what_another_node_reads_stays_for_it(tmp_path: Path) -> None:
    text = f"g ({X}, int64[2] i) => (float[2,12] q, float[2,8] e, float[12,8] r) {{ a, b, c = Split<axis = 0>(w, sizes) q = Gemm<transB = 1>(x, a) e = Gather(w, i) r = Relu(c) }}"
    proto = model(text, THREE)
    proto.graph.node[0].output[1] = "a computed"  # the name that the first part would get
    graph = opened(proto, tmp_path)
    assert dict(graph.folded) == {"a": "Split"}
    stored = {tensor.name for tensor in graph.proto.graph.initializer}
    assert stored == {"w", "sizes", "a"}
    assert list(graph.proto.graph.node[0].output) == ["a computed'", "a computed", "c"]
    (layer,) = linears(graph)
    feeds = {"x": normal(2, 8), "i": np.array([1, 35])}
    sparse = rewritten(graph, tmp_path / "out")
    for index, same in enumerate((False, True, True)):
        assert np.array_equal(run(sparse, feeds)[index], run(proto, feeds)[index]) is same
    assert layer.weight == "a"


def test_a_body_that_reads_the_source_keeps_it(tmp_path: Path) -> None:
    branch = "y = If(c) <then_branch = t () => (float[8,12] p) { p = Relu(w) }, else_branch = e () => (float[8,12] r) { r = Neg(v) }>"
    text = f"g ({X}, bool c) => (float[2,12] z, float[8,12] y) {{ v = Mul(w, g) z = MatMul(x, v) {branch} }}"
    proto = model(text, {"w": W, "g": normal(12)})
    graph = opened(proto, tmp_path)
    assert dict(graph.folded) == {"v": "Mul"}
    assert {tensor.name for tensor in graph.proto.graph.initializer} == {"w", "v"}
    for flag in (True, False):
        feeds = {"x": normal(2, 8), "c": np.array(flag)}
        for ours, theirs in zip(run(graph.proto, feeds), run(proto, feeds), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert [row.reason for row in found(graph) if isinstance(row, Skipped)] == [Reason.READ_IN_SUBGRAPH]


UNFOLDED: dict[str, tuple[str, dict[str, Array]]] = {
    "nothing is computed": (f"g ({X}) => (float[2,12] y) {{ t = Transpose(w) y = MatMul(x, t) }}", {"w": normal(12, 8)}),
    "not the weight": (f"g ({X}) => (float[2,12] y) {{ b = Mul(c, c) y = Gemm(x, w, b) }}", {"w": W, "c": normal(12)}),
    "an activation": (f"g ({X}) => (float[2,2] y) {{ t = Transpose(x) y = MatMul(x, t) }}", {}),
    "both are constants": (f"g ({X}) => (float[2,12] y) {{ a = Mul(k, k) b = Mul(w, w) v = MatMul(a, b) s = ReduceSum(x) y = Add(v, s) }}", {"k": normal(2, 8), "w": W}),
    "a vector": (f"g ({X}) => (float[2] y) {{ v = Mul(w, w) y = MatMul(x, v) }}", {"w": normal(8)}),
    "drawn": (f"g ({X}) => (float[2,12] y) {{ r = RandomNormalLike(w) v = Mul(w, r) y = MatMul(x, v) }}", {"w": W}),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFOLDED)
def test_a_model_without_computed_weights_keeps_what_its_file_holds(case: str, tmp_path: Path) -> None:
    proto = model(*UNFOLDED[case])
    graph = opened(proto, tmp_path)
    assert not graph.folded
    assert graph.proto == proto
    told = {row.reason for row in found(graph) if isinstance(row, Skipped)}
    assert (Reason.COMPUTED in told) is (case == "a vector")


HUGE = 1 << 40
DANGEROUS: dict[str, tuple[str, dict[str, Array]]] = {
    "Expand": (f"g ({X}) => (float[2,N] y) {{ v = Expand(w, s) y = MatMul(x, v) }}", {"w": normal(8, 1), "s": np.array([8, HUGE])}),
    "Expand on the way": (f"g ({X}) => (float[2,8] y) {{ b = Expand(w, s) r = ReduceSum<keepdims = 0>(b, i) v = Mul(k, r) y = MatMul(x, v) }}", {"w": normal(1), "s": np.array([HUGE]), "i": np.array([0]), "k": normal(8, 8)}),
    "Tile": (f"g ({X}) => (float[2,N] y) {{ v = Tile(w, s) y = MatMul(x, v) }}", {"w": normal(8, 4), "s": np.array([1, HUGE])}),
    "ConstantOfShape": (f"g ({X}) => (float[2,N] y) {{ v = ConstantOfShape(s) y = MatMul(x, v) }}", {"s": np.array([8, HUGE])}),
    "a size that is not known": (f"g ({X}) => (float[2,N] y) {{ u = NonZero(w) s = Shape(u) e = Expand(w, s) v = Add(e, e) y = MatMul(x, v) }}", {"w": normal(8, 1)}),
    "twice as much at every node": (f"g ({X}) => (float[2,N] y) {{ " + " ".join(f"v{i} = Concat<axis = 1>(v{i - 1}, v{i - 1})" for i in range(1, 41)) + " y = MatMul(x, v40) }", {"v0": normal(8, 1)}),
    "few large results of much work": (f"g ({X}) => (float[2,12] y) {{ " + " ".join(f"v{i} = Add(v{i - 1}, v{i - 1})" for i in range(1, 400)) + " y = MatMul(x, v399) }", {"v0": W}),
}  # fmt: skip


@pytest.mark.parametrize("case", DANGEROUS)
def test_what_could_be_large_is_not_computed_and_the_reason_says_what_to_do(case: str, tmp_path: Path) -> None:
    proto = model(*DANGEROUS[case])
    graph = opened(proto, tmp_path)
    assert graph.proto == proto
    (row,) = found(graph)
    assert isinstance(row, Skipped)
    assert row.reason is Reason.COMPUTED
    assert row.sentence == (
        f"the weight is computed from constants by {row.detail}: fold constants first (onnxsim, or polygraphy surgeon "
        "sanitize --fold-constants)"
    )


def test_a_function_with_the_name_of_a_standard_operator_is_not_folded(tmp_path: Path) -> None:
    proto = model(f"g ({X}) => (float[2,12] y) {{ v = Mul(w, w) y = MatMul(x, v) }}", {"w": W})
    proto.functions.append(
        onnx.parser.parse_function('<domain: "", opset_import: ["" : 17]> Mul (a, b) => (r) { r = Sub(a, b) }')
    )
    assert not opened(proto, tmp_path).folded


def test_a_constant_that_whoever_runs_the_model_may_replace_is_not_folded(tmp_path: Path) -> None:
    text = f"g ({X}, float[12] g) => (float[2,12] y) {{ v = Mul(w, g) y = MatMul(x, v) }}"
    graph = opened(model(text, {"w": W, "g": normal(12)}), tmp_path)
    assert not graph.folded
    assert [row.reason for row in found(graph) if isinstance(row, Skipped)] == [Reason.COMPUTED]


def test_a_model_that_cannot_be_run_is_opened_as_before(tmp_path: Path) -> None:
    proto = model(
        f"g ({X}) => (float[2,12] y) {{ t = Transpose<perm = [7]>(w) v = Mul(t, t) y = MatMul(x, v) }}", {"w": W}
    )
    assert not opened(proto, tmp_path).folded


def make_external(tmp_path: Path) -> OnnxGraph:
    """A model whose only external tensor is the source of a folded weight."""
    proto = model(f"g ({X}) => (float[2,12] y) {{ v = Mul(w, g) y = MatMul(x, v) }}", {"w": W, "g": normal(12)})
    tensor = proto.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return OnnxGraph(save(proto, tmp_path))


def test_the_source_may_lie_in_a_file_of_its_own(tmp_path: Path) -> None:
    graph = make_external(tmp_path)
    np.testing.assert_array_equal(graph.stored("v"), W * normal(12))
    assert graph.external_files == (tmp_path / "w.bin",)


def test_where_nothing_is_pruned_the_file_is_copied_with_all_that_it_names(tmp_path: Path) -> None:
    graph = make_external(tmp_path)
    (tmp_path / "out").mkdir()
    path = RewriteWeights().call(graph=graph, weights={}, folder=tmp_path / "out").path
    assert path.read_bytes() == graph.path.read_bytes()
    assert (tmp_path / "out" / "w.bin").read_bytes() == W.tobytes()


def test_what_only_a_constant_node_holds_is_folded_too(tmp_path: Path) -> None:
    proto = model(f"g ({X}) => (float[2,12] y) {{ v = Mul(w, w) y = MatMul(x, v) }}")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(W)))
    graph = opened(proto, tmp_path)
    assert [node.op_type for node in graph.proto.graph.node] == ["MatMul"]
    np.testing.assert_array_equal(graph.stored("v"), W * W)


def test_all_weights_of_a_decoder_layer_are_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    path = export(layer.eval(), (torch.randn(2, 5, 32), torch.randn(2, 7, 32)), tmp_path, dynamo=True)
    graph, sparse = prune(path, tmp_path)
    assert sorted(layer.k * layer.n for layer in linears(graph)) == [1024, 1024, 1024, 2048, 2048, 2048, 3072]
    assert len(graph.folded) == 2
    assert len(VerifyPattern().call(graph=sparse, linears=linears(graph)).uses) == 7


def test_weight_normed_convolutions_are_pruned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = nn.utils.parametrizations.weight_norm
    layers = nn.Sequential(norm(nn.Conv1d(16, 32, 3)), nn.ReLU(), norm(nn.Conv1d(32, 8, 3)))
    path = export(layers.eval(), (torch.randn(2, 16, 20),), tmp_path, dynamo=False)
    graph, sparse = prune(path, tmp_path)
    assert [(layer.k, layer.n) for layer in linears(graph)] == [(48, 32), (96, 8)]
    assert [node.op_type for node in sparse.proto.graph.node] == ["Conv", "Relu", "Conv"]
    assert len(VerifyPattern().call(graph=sparse, linears=linears(graph)).uses) == 2


def export(module: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, *, dynamo: bool) -> Path:
    """A module as the exporters of torch write it."""
    path = folder / "dense.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        torch.onnx.export(module, inputs, str(path), dynamo=dynamo, external_data=False, verbose=False)
    return path


def prune(path: Path, folder: Path) -> tuple[OnnxGraph, OnnxGraph]:
    """The opened file, whose copy computes what it does, and what is written of it."""
    graph = OnnxGraph(path)
    feeds = make_feeds(graph)
    np.testing.assert_array_equal(run(graph.proto, feeds)[0], run(path, feeds)[0])
    return graph, OnnxGraph(rewritten(graph, folder / "out"))
