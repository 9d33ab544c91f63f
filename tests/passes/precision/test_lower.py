"""float32 networks in float16 and bfloat16: what becomes low, and what stays in float32 for which reason."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.precision.check import PrecisionError, verify_interface
from prox24_export.passes.precision.lower import LowerPrecision
from prox24_export.passes.precision.types import PRECISIONS
from tests.graphs import (
    model,
    normal,
    opened,
    polygraphys_verdict,
    run,
)
from tests.passes.precision.lowered import BF16_PASS, CLOSE, FP16, TWO, TWO_WEIGHTS, X, lower, types


def casts(graph: OnnxGraph) -> int:
    return sum(node.op_type == "Cast" for node in graph.proto.graph.node)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_network_becomes_low_and_its_ends_stay(name: str, tmp_path: Path) -> None:
    settings = FP16 if name == "fp16" else BF16_PASS
    lowered, graph = lower(model(TWO, TWO_WEIGHTS), tmp_path, [X], settings)
    word = PRECISIONS[name].word
    assert types(graph) == dict.fromkeys("uvc", word)
    assert casts(graph) == 2
    assert lowered.kept_in_fp32 == {}
    assert [check.node for check in lowered.verified] == ["first", "second"]
    assert 0 < lowered.differences["y"] < CLOSE[name]
    assert graph.proto.opset_import[0].version == 17
    verify_interface(OnnxGraph(tmp_path / "dense.onnx").proto, graph.proto)
    if name == "fp16":
        assert polygraphys_verdict(onnx.load(lowered.path)) == ({"u", "v"}, {"u", "v"})
        (expected,), (found,) = run(tmp_path / "sparse" / "model.onnx", X), run(lowered.path, X)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.02)


def test_weights_outside_the_range_stay_with_their_node(tmp_path: Path) -> None:
    weights = {"u": normal(8, 16), "v": normal(16, 4) * 40000}
    text = "g (float[n,8] x) => (float[n,4] y) { [first] a = MatMul(x, u) [second] y = MatMul(a, v) }"
    lowered, graph = lower(model(text, weights), tmp_path, [X])
    assert types(graph) == {"u": "float16", "v": "float32"}
    assert lowered.kept_in_fp32.keys() == {"second"}
    assert lowered.kept_in_fp32["second"].startswith("constant v reaches ")
    assert "float16 ends at 65504" in lowered.kept_in_fp32["second"]
    assert lowered.differences["y"] < CLOSE["fp16"]
    lowered, graph = lower(model(text, weights), tmp_path / "bf16", [X], BF16_PASS)
    assert types(graph) == dict.fromkeys("uv", "bfloat16")


def test_a_transposed_weight_outside_the_range_stays_without_calibration_too(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,4] y) { t = Transpose<perm = [1, 0]>(v) [mul] y = MatMul(x, t) }"
    lowered, graph = lower(model(text, {"v": normal(4, 8) * 40000}), tmp_path, [])
    assert lowered.kept_in_fp32.keys() == {"Transpose:t", "mul"}
    assert types(graph) == {"v": "float32"}
    assert lowered.differences == {}
    assert "no calibration data" in lowered.notes[0]


def test_two_kept_neighbours_pass_float32_on(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,4] y) { a = Mul(x, k) b = Relu(a) c = Div(b, k) y = MatMul(c, w) }"
    lowered, graph = lower(model(text, {"k": np.array(1e9, np.float32), "w": normal(8, 4)}), tmp_path, [X])
    assert lowered.kept_in_fp32.keys() == {"Mul:a", "Relu:b", "Div:c"}
    assert casts(graph) == 2  # x is read in float32; c → float16; y → float32
    assert lowered.differences["y"] < CLOSE["fp16"]


def test_the_margin_decides(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,4] y) { a = Mul(x, k) y = MatMul(a, w) }"
    proto = model(text, {"k": np.array(30000, np.float32), "w": 0.01 * normal(8, 4)})
    feeds = [{"x": np.full((1, 8), 1, np.float32)}]
    assert (
        "value a reaches 3e+04; float16 ends at 65504 and 4× is kept spare"
        in (lower(proto, tmp_path / "4", feeds)[0].kept_in_fp32["Mul:a"])
    )
    assert lower(proto, tmp_path / "2", feeds, LowerPrecision(margin=2.0))[0].kept_in_fp32 == {}


def test_a_constant_that_rounds_to_zero_stays(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) { z = Sub(x, x) a = Abs(z) b = Add(a, eps) c = Sqrt(b) d = Div(z, c)
        e = Add(d, x) y = MatMul(e, w) }"""
    proto = model(text, {"eps": np.array(1e-12, np.float32), "w": normal(8, 4)})
    lowered, _ = lower(proto, tmp_path, [X])
    assert "constant eps is at most 1e-12, which float16 rounds to zero" in lowered.kept_in_fp32["Add:b"]
    assert "Sqrt:c" in lowered.kept_in_fp32
    assert lowered.differences["y"] < CLOSE["fp16"]


def test_a_small_denominator_stays(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,4] y) { a = Abs(x) b = Pow(a, p) c = Div(b, b) y = MatMul(c, w) }"
    feeds = {"x": np.array([[1e-5, 1, 2, 3, 1, 1, 1, 1]], np.float32)}
    lowered, _ = lower(model(text, {"p": np.array(2, np.float32), "w": normal(8, 4)}), tmp_path, [feeds])
    assert "value b is divided by and gets as small as 1e-10" in lowered.kept_in_fp32["Div:c"]
    assert lowered.kept_in_fp32.keys() == {"Pow:b", "Div:c"}


def test_a_value_that_overflows_all_the_same_is_an_error_that_names_the_node(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) { [ok] o = Relu(x) [boom] a = Mul(o, k) [later] b = Neg(a) y =
        MatMul(b, w) }"""
    graph = opened(model(text, {"k": np.array(60000, np.float32), "w": normal(8, 4)}), tmp_path)
    feeds = [{"x": np.full((1, 8), 2, np.float32)}]
    with pytest.raises(PrecisionError, match=r"node boom \(Mul\) is the first with NaN or Inf"):
        LowerPrecision(margin=0.1).call(source=graph.path, target=tmp_path / "low.onnx", feeds=feeds)
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]
    lowered = LowerPrecision(margin=0.1, keep=("boom", "later", "MatMul:y")).call(
        source=graph.path, target=tmp_path / "low.onnx", feeds=feeds
    )
    assert lowered.kept_in_fp32["boom"] == "kept by request (boom)"


def test_an_infinity_of_the_float32_model_is_no_fault(tmp_path: Path) -> None:
    text = """g (float[n,8] x, bool[n,8] m) => (float[n,8] y, float[n,8] z) { z = Where(m, x, low) a = Softmax(z)
        y = MatMul(a, w) }"""
    feeds = X | {"m": normal(5, 8) > 0}
    feeds["m"][:, 0] = True
    proto = model(text, {"low": np.array(-np.inf, np.float32), "w": normal(8, 8)})
    lowered, _ = lower(proto, tmp_path, [feeds])
    assert lowered.kept_in_fp32 == {}
    assert lowered.differences["y"] < CLOSE["fp16"]


@pytest.mark.parametrize("settings", [LowerPrecision(), BF16_PASS])
def test_an_infinity_of_an_input_is_no_fault(settings: LowerPrecision, tmp_path: Path) -> None:
    text = """g (float[n,8] x, float[n,8] m) => (float[n,8] y) { z = Add(x, m) a = Softmax(z) y = MatMul(a, w) }"""
    feeds = X | {"m": np.where(normal(5, 8) > 0, -np.inf, 0).astype(np.float32)}
    feeds["m"][:, 0] = 0
    lowered, _ = lower(model(text, {"w": normal(8, 8)}), tmp_path, [feeds], settings)
    assert lowered.kept_in_fp32 == {}
    assert lowered.differences["y"] < CLOSE["bf16"]


def test_bfloat16_convolution_raises_the_opset_and_float16_does_not(tmp_path: Path) -> None:
    text = "g (float[n,4,9] x) => (float[n,8,7] y) { [conv] a = Conv(x, w) y = Relu(a) }"
    proto, feeds = model(text, {"w": normal(8, 4, 3)}), [{"x": normal(2, 4, 9)}]
    assert lower(proto, tmp_path / "fp16", feeds)[1].proto.opset_import[0].version == 17
    lowered, graph = lower(proto, tmp_path / "bf16", feeds, BF16_PASS)
    assert graph.proto.opset_import[0].version == 22
    assert "opset raised from 17 to 22: bfloat16 Conv needs it" in lowered.notes
    assert [check.node for check in lowered.verified] == ["conv"]
    assert types(graph) == {"w": "bfloat16"}


def test_an_old_file_with_unnamed_nodes_and_initializers_among_the_inputs(tmp_path: Path) -> None:
    text = "g (float[n,8] x, float[8,8] w) => (float[n,8] y) { a = MatMul(x, w) y = MatMul(a, w) }"
    lowered, graph = lower(model(text, {"w": normal(8, 8)}, opset=9, ir=3), tmp_path, [X])
    assert [value.name for value in graph.proto.graph.input] == ["x"]
    assert types(graph) == {"w": "float16"}
    assert lowered.differences["y"] < CLOSE["fp16"]
