"""bfloat16 and float64 models run on a float32 copy; the file keeps its types."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.float32_copy import convert_to_float32
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from tests.graphs import BF16, Walk, is_two_four, linears, model, normal, opened, pruned, rewritten, run

WIDE = {"bfloat16": BF16, "double": np.dtype(np.float64)}
CONV = "g ({t}[n,4,9] x) => ({t}[n,6,7] y) {{ a = Conv(x, u) b = Relu(a) y = Conv<pads = [1,1]>(b, v) }}"


def wide_conv(kind: str) -> onnx.ModelProto:
    weights = {"u": normal(8, 4, 3).astype(WIDE[kind]), "v": normal(6, 8, 3).astype(WIDE[kind])}
    return model(CONV.format(t=kind), weights, opset=22, ir=10)


def narrow(weights: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.astype(np.float32) for name, array in weights.items()}


@pytest.mark.parametrize(("kind", "named"), [("bfloat16", "bfloat16"), ("double", "float64")])
def test_a_type_without_kernels_runs_as_float32_and_stays_in_the_file(kind: str, named: str, tmp_path: Path) -> None:
    proto = wide_conv(kind)
    graph = opened(proto, tmp_path)
    assert graph.runs_in_float32 == (named,)
    assert graph.inputs[0].dtype == np.float32
    x = normal(3, 4, 9)
    reference = model(CONV.format(t="float"), narrow({name: graph.stored(name) for name in "uv"}), opset=22, ir=10)
    np.testing.assert_allclose(
        graph.session().run(None, {"x": x})[0], run(reference, {"x": x})[0], rtol=1e-5, atol=1e-5
    )
    walk = Walk(graph, [{"x": x}])
    sparse = OnnxGraph(rewritten(graph, tmp_path / "out"))
    for layer in walk.layers:
        stored = sparse.stored(layer.weight)
        assert stored.dtype == WIDE[kind]
        assert np.array_equal(stored, walk.weights[layer.weight])
        assert is_two_four(layer.layout.to_matrix(stored))
    expected = model(CONV.format(t="float"), narrow(walk.weights), opset=22, ir=10)
    np.testing.assert_allclose(
        sparse.session().run(None, {"x": x})[0], run(expected, {"x": x})[0], rtol=1e-5, atol=1e-5
    )


def test_a_double_model_with_kernels_runs_as_it_is(tmp_path: Path) -> None:
    text = "g (double[n,8] x) => (double[n,8] y) { y = MatMul(x, u) }"
    graph = opened(model(text, {"u": normal(8, 8, dtype=np.float64)}), tmp_path)
    assert graph.runs_in_float32 == ()
    assert graph.inputs[0].dtype == np.float64
    x = normal(3, 8, dtype=np.float64)
    (seen,) = Walk(graph, [{"x": x}]).seen.values()
    np.testing.assert_allclose(seen.fit.gram.numpy(), x.T @ x, rtol=1e-14)


BODY = """g (double[n,4,9] x, bool c) => (double[n,6,7] y) {
    k = Conv(x, u)
    s = Shape(k)
    f = ConstantOfShape<value = double[1] {0.25}>(s)
    g = Add(k, f)
    h = Cast<to = 1>(g)
    i = Cast<to = 11>(h)
    d = Constant<value = double {0.5}>()
    j = Mul(i, d)
    y = If(c) <then_branch = t () => (double[n,6,7] a) { e = Constant<value = double {2.0}>() a = Mul(j, e) },
               else_branch = e () => (double[n,6,7] b) { m = Cast<to = 11>(h) b = Add(m, j) }> }"""


def test_attributes_and_bodies_are_converted_with_the_rest(tmp_path: Path) -> None:
    weight = normal(6, 4, 3, dtype=np.float64)
    graph = opened(model(BODY, {"u": weight}), tmp_path)
    assert graph.runs_in_float32 == ("float64",)
    x = normal(2, 4, 9)
    session = graph.session()
    kernel = model("g (float[n,4,9] x) => (float[n,6,7] y) { y = Conv(x, u) }", {"u": weight.astype(np.float32)})
    base = (run(kernel, {"x": x})[0] + 0.25) * 0.5
    np.testing.assert_allclose(session.run(None, {"x": x, "c": np.array(True)})[0], 2 * base, rtol=1e-5)
    np.testing.assert_allclose(session.run(None, {"x": x, "c": np.array(False)})[0], 3 * base, rtol=1e-5)


def wide_left(proto: onnx.ModelProto) -> list[str]:
    """Names of wide types in the text of a model."""
    text = onnx.printer.to_text(proto)
    return [word for word in ("double", "bfloat16", "to: int = 11", "to: int = 16") if word in text]


def test_no_wide_type_is_left_in_the_copy(tmp_path: Path) -> None:
    proto = model(BODY, {"u": normal(6, 4, 3, dtype=np.float64)}, more=', "local" : 1')
    proto.graph.value_info.append(helper.make_tensor_value_info("k", TensorProto.DOUBLE, None))
    body = """<domain: "local", opset_import: ["" : 17]> F (a, c) => (r) {
        r = If(c) <then_branch = t () => (double[n] p) { k = Constant<value = double {1.5}>() p = Add(a, k) },
                   else_branch = e () => (double[n] q) { q = Cast<to = 11>(a) }> }"""
    proto.functions.append(onnx.parser.parse_function(body))
    sequence = helper.make_tensor_sequence_value_info("unused", TensorProto.DOUBLE, [2])
    proto.graph.output.append(sequence)
    assert wide_left(proto)
    copy = convert_to_float32(proto, tmp_path)
    assert wide_left(copy) == []
    assert wide_left(proto), "the model itself stays"


def test_external_data_are_read_into_the_copy(tmp_path: Path) -> None:
    proto = wide_conv("bfloat16")
    onnx.save(proto, tmp_path / "dense.onnx", save_as_external_data=True, location="d.bin", size_threshold=0)
    graph = OnnxGraph(tmp_path / "dense.onnx")
    assert graph.runs_in_float32 == ("bfloat16",)
    assert graph.session().run(None, {"x": normal(1, 4, 9)})[0].shape == (1, 6, 7)
    assert set(pruned(graph)) == {"u", "v"}


def test_a_model_that_no_float32_copy_helps_is_refused_in_one_sentence(tmp_path: Path) -> None:
    text = "g (bfloat16[n,4] x, float[4] z) => (float[n,4] y) { a = MatMul(x, u) y = Cast<to = 1>(a) }"
    proto = model(text, {"u": normal(4, 4).astype(BF16)}, opset=22, ir=10)
    proto.graph.node.append(helper.make_node("Unheard", ["z"], ["w"]))
    graph = opened(proto, tmp_path)
    with pytest.raises(InputError, match="ONNX Runtime cannot load") as error:
        graph.session()
    assert "\n" not in str(error.value)


def test_layers_are_found_in_the_file_not_in_the_copy(tmp_path: Path) -> None:
    graph = opened(wide_conv("bfloat16"), tmp_path)
    assert {layer.dtype for layer in linears(graph)} == {"bfloat16"}
    assert graph.weight(linears(graph)[0]).numpy().dtype == np.float32
    assert numpy_helper.to_array(graph.proto.graph.initializer[0]).dtype == BF16
