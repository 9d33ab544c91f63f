"""float32 files in float16 and bfloat16: the same function by ONNX Runtime, sparse where it was, or a reason."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from prox24_export.errors import InputError, UnavailableError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import largest
from prox24_export.passes.precision.check import PrecisionError, differences, verify_interface, verify_lowered
from prox24_export.passes.precision.lower import Lowered, LowerPrecision
from prox24_export.passes.precision.quantised import quantised_products, verify_quantised
from prox24_export.passes.precision.ranges import observe
from prox24_export.passes.precision.types import PRECISIONS, rounded
from prox24_export.passes.verify_pattern import PatternError
from tests.graphs import (
    BF16,
    Array,
    is_two_four,
    linears,
    model,
    normal,
    opened,
    polygraphys_verdict,
    rewritten,
    run,
    save,
)

FP16, BF16_PASS = LowerPrecision(), LowerPrecision("bf16")
CLOSE = {"fp16": 4e-3, "bf16": 3e-2}  # a few roundings of 2⁻¹¹ and 2⁻⁸


def lower(
    proto: onnx.ModelProto, folder: Path, feeds: Sequence[Mapping[str, Array]], settings: LowerPrecision = FP16
) -> tuple[Lowered, OnnxGraph]:
    """A model written, pruned by magnitude, converted with its layers verified, and read again."""
    graph = opened(proto, folder)
    path = rewritten(graph, folder / "sparse")
    before = path.read_bytes()
    lowered = settings.call(
        source=path, target=folder / f"low.{settings.precision}.onnx", feeds=list(feeds), linears=linears(graph)
    )
    assert path.read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["dense.onnx", lowered.path.name, "sparse"]
    written = OnnxGraph(lowered.path)
    onnx.checker.check_model(written.proto, full_check=settings.precision == "fp16")
    return lowered, written


def types(graph: OnnxGraph) -> dict[str, str]:
    """Type of every stored float tensor by name."""
    words = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
    return {t.name: words[t.data_type] for t in graph.proto.graph.initializer if t.data_type in words}


def casts(graph: OnnxGraph) -> int:
    return sum(node.op_type == "Cast" for node in graph.proto.graph.node)


X = {"x": normal(5, 8)}
TWO = """g (float[n,8] x) => (float[n,4] y) { [first] a = MatMul(x, u) b = Add(a, c) d = Relu(b) [second] y =
    MatMul(d, v) }"""
TWO_WEIGHTS = {"u": normal(8, 16), "v": normal(16, 4, seed=1), "c": normal(16)}


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


# Graph, weights, feeds, and the nodes that stay in float32 with words of the reason (every other node computes low).
Case = tuple[str, dict[str, Array], dict[str, Array], dict[str, str]]
CASES: dict[str, Case] = {
    "Constant weight": (
        "g (float[n,8] x) => (float[n,1] y) { w = Constant<value = float[8,1] {1,2,3,4,5,6,7,8}>() y = MatMul(x, w) }",
        {},
        X,
        {},
    ),
    "Constant of one float": (
        "g (float[n,8] x) => (float[n,4] y) { s = Constant<value_float = 0.5>() a = Mul(x, s) y = MatMul(a, w) }",
        {"w": normal(8, 4)},
        X,
        {},
    ),
    "shared weight": (
        "g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }",
        {"w": normal(8, 8)},
        X,
        {},
    ),
    "shared weight, one node in float32": (
        "g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, w) m = Mul(a, k) [big] b = MatMul(m, w) y = Div(b, k) }",
        {"w": normal(8, 8), "k": np.array(30000, np.float32)},
        X,
        {"big": "value m reaches", "Mul:m": "value m reaches", "Div:y": "value b reaches"},
    ),
    "Transpose and Identity": (
        "g (float[n,8] x) => (float[n,4] y) { v = Identity(w) t = Transpose<perm = [1, 0]>(v) y = MatMul(x, t) }",
        {"w": normal(4, 8)},
        X,
        {},
    ),
    "float64 weight behind Cast": (
        "g (float[n,8] x) => (float[n,4] y) { v = Cast<to = 1>(w) y = MatMul(x, v) }",
        {"w": normal(8, 4, dtype=np.float64)},
        X,
        {},
    ),
    "float64 weight behind Transpose and Cast": (
        "g (float[n,8] x) => (float[n,4] y) { t = Transpose<perm = [1, 0]>(w) v = Cast<to = 1>(t) y = MatMul(x, v) }",
        {"w": normal(4, 8, dtype=np.float64)},
        X,
        {},
    ),
    "float16 weight behind Cast": (
        "g (float[n,8] x) => (float[n,4] y) { v = Cast<to = 1>(w) y = MatMul(x, v) }",
        {"w": normal(8, 4, dtype=np.float16)},
        X,
        {},
    ),
    "Resize": (
        """g (float[1,4,4,4] x) => (float[1,4,n,m] y) { a = Conv(x, w) y = Resize<mode = "linear">(a, , s) }""",
        {"w": normal(4, 4, 1, 1), "s": np.array([1, 1, 2, 2], np.float32)},
        {"x": normal(1, 4, 4, 4)},
        {},
    ),
    "embedding": (
        "g (int64[n] x) => (float[n,4] y) { a = Gather(t, x) y = MatMul(a, w) }",
        {"t": normal(9, 8), "w": normal(8, 4)},
        {"x": np.arange(9)},
        {},
    ),
    "positions": (
        """g (int64[n] p, float[n,8] x) => (float[n,4] y) { f = Cast<to = 1>(p) g = Mul(f, k) h = Sin(g)
            i = Unsqueeze(h, one) a = Mul(x, i) y = MatMul(a, w) }""",
        {"k": np.array(1.37, np.float32), "w": normal(8, 4), "one": np.array([1])},
        {"p": np.array([3, 500, 4001]), "x": normal(3, 8)},
        {"Cast:f": "integers", "Mul:g": "integers", "Sin:h": "integers", "Unsqueeze:i": "integers"},
    ),
    "image of bytes": (
        "g (uint8[n,8] x) => (float[n,4] y) { a = Cast<to = 1>(x) b = Div(a, k) y = MatMul(b, w) }",
        {"k": np.array(255, np.float32), "w": normal(8, 4)},
        {"x": np.arange(40, dtype=np.uint8).reshape(5, 8)},
        {"Cast:a": "integers", "Div:b": "integers"},
    ),
    "If that reads outer values": (
        """g (float[n,8] x, bool c) => (float[n,8] y) { a = MatMul(x, w)
            b = If(c) <then_branch = t () => (float[n,8] p) { k = Constant<value = float {2.0}>() p = Mul(a, k) },
                       else_branch = e () => (float[n,8] q) { q = Add(a, v) }> y = MatMul(b, w) }""",
        {"w": normal(8, 8), "v": normal(8)},
        X | {"c": np.array(True)},
        {"If:b": "bodies"},
    ),
    "Loop": (
        """g (float[n,8] x) => (float[n,4] y) { a = Mul(x, s)
            b = Loop(trips, , a) <body = l (int64 i, bool go, float[n,8] p) => (bool on, float[n,8] q)
                { on = Identity(go) r = Add(p, a) q = Tanh(r) }> y = MatMul(b, w) }""",
        {"w": normal(8, 4), "s": np.array(0.1, np.float32), "trips": np.array(3)},
        X,
        {"Loop:b": "bodies"},
    ),
    "two outputs, one read inside, one integer": (
        """g (float[n,8] x) => (float[n,4] y, float[n,4] z, int64[n] i) { y = MatMul(x, w) z = Relu(y) i =
            ArgMax<axis = 1, keepdims = 0>(z) }""",
        {"w": normal(8, 4)},
        X,
        {},
    ),
    "an output that is a constant, and one that is the input": (
        """g (float[n,8] x) => (float[n,4] y, float[4] c, float[n,8] z) { a = MatMul(x, w) y = Add(a, c) z =
            Identity(x) }""",
        {"w": normal(8, 4), "c": normal(4)},
        X,
        {},
    ),
    "float64 island": (
        """g (float[n,8] x) => (float[n,4] y) { a = MatMul(x, w) b = Cast<to = 11>(a) c = Mul(b, k) d = Cast<to = 1>(c)
            y = Relu(d) }""",
        {"w": normal(8, 4), "k": np.array(3, np.float64)},
        X,
        {},
    ),
    "ConstantOfShape": (
        """g (float[n,8] x) => (float[n,4] y) { a = MatMul(x, w) s = Shape(a) o = ConstantOfShape<value =
            float[1] {2.5}>(s)
            y = Add(a, o) }""",
        {"w": normal(8, 4)},
        X,
        {"ConstantOfShape:o": "set by an attribute"},
    ),
    "Range": (
        """g (float[n,8] x) => (float[n,8] y) { r = Range(from, to, by) a = Add(x, r) y = MatMul(a, w) }""",
        {
            "w": normal(8, 8),
            "from": np.array(0, np.float32),
            "to": np.array(8, np.float32),
            "by": np.array(1, np.float32),
        },
        X,
        {"Range:r": "not defined for"},
    ),
    "LayerNormalization": (
        "g (float[n,8] x) => (float[n,4] y) { a = LayerNormalization(x, s, b) y = MatMul(a, w) }",
        {"w": normal(8, 4), "s": normal(8), "b": normal(8, seed=3)},
        X,
        {},
    ),
    "Clip with an empty input": (
        """g (float[n,8] x) => (float[n,4] y) { a = Clip(x, , top) y = MatMul(a, w) }""",
        {"w": normal(8, 4), "top": np.array(1, np.float32)},
        X,
        {},
    ),
    "vendor operator": (
        "g (float[n,8] x) => (float[n,4] y) { a = com.microsoft.Gelu(x) y = MatMul(a, w) }",
        {"w": normal(8, 4)},
        X,
        {"Gelu:a": "no ONNX operator"},
    ),
    "mixed file": (
        """g (float[n,8] x) => (float[n,4] y) { a = Cast<to = 10>(x) b = Mul(a, h) c = Cast<to = 1>(b) y =
            MatMul(c, w) }""",
        {"w": normal(8, 4), "h": np.array(2, np.float16)},
        X,
        {},
    ),
    "same value twice": (
        """g (float[n,8] x) => (float[n,4] y) { a = Mul(x, k) b = Mul(a, a) c = Add(b, b) d = Div(c, q) y =
            MatMul(d, w) }""",
        {"w": normal(8, 4), "k": np.array(300, np.float32), "q": np.array(90000, np.float32)},
        X,
        {"Mul:b": "value b reaches", "Add:c": "value b reaches", "Div:d": "reaches"},
    ),
}
MIXED = ', "com.microsoft" : 1'


@pytest.mark.parametrize("name", ["fp16", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_an_awkward_graph_computes_the_same(case: str, name: str, tmp_path: Path) -> None:
    text, weights, feeds, expected = CASES[case]
    settings = FP16 if name == "fp16" else BF16_PASS
    lowered, graph = lower(model(text, weights, more=MIXED), tmp_path, [feeds], settings)
    source = OnnxGraph(tmp_path / "dense.onnx")
    verify_interface(source.proto, graph.proto)
    assert all(difference < CLOSE[name] for difference in lowered.differences.values()), lowered.differences
    pruned = {layer.weight for layer in linears(source)}
    assert len(lowered.verified) == sum(len(layer.uses) for layer in linears(source))
    word = PRECISIONS[name].word
    assert {types(graph)[weight] for weight in pruned} <= {word}
    if name == "bf16":  # the range of float32
        expected = {node: reason for node, reason in expected.items() if "reaches" not in reason}
    assert lowered.kept_in_fp32.keys() == expected.keys()
    for node, reason in expected.items():
        assert reason in lowered.kept_in_fp32[node]
    if name == "fp16":
        before, after = run(tmp_path / "sparse" / "model.onnx", feeds), run(lowered.path, feeds)
        for one, other in zip(before, after, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(other, one, rtol=0.02, atol=0.02 * float(np.abs(one).max()))
        assert pruned <= polygraphys_verdict(onnx.load(lowered.path))[1]


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


def test_functions_are_inlined(tmp_path: Path) -> None:
    proto = model(
        "g (float[n,8] x) => (float[n,4] y) { a = local.F(x) y = MatMul(a, w) }",
        {"w": normal(8, 4)},
        more=', "local" : 1',
    )
    body = """<domain: "local", opset_import: ["" : 17]> F (a) => (r) { k = Constant<value = float {3.0}>() r =
        Mul(a, k) }"""
    proto.functions.append(onnx.parser.parse_function(body))
    lowered, graph = lower(proto, tmp_path, [X])
    assert lowered.kept_in_fp32 == {}
    assert not graph.proto.functions
    assert lowered.differences["y"] < CLOSE["fp16"]


@pytest.mark.parametrize("settings", [FP16, BF16_PASS])
def test_external_data_stay_external(settings: LowerPrecision, tmp_path: Path) -> None:
    weights = {"u": normal(8, 512), "v": normal(512, 4), "c": normal(512)}
    (tmp_path / "in").mkdir()
    onnx.save(
        model(TWO, weights), tmp_path / "in" / "m.onnx", save_as_external_data=True, location="d.bin", size_threshold=0
    )
    target = tmp_path / "out" / "low.onnx"
    lowered = settings.call(source=tmp_path / "in" / "m.onnx", target=target, feeds=[X])
    assert sorted(file.name for file in target.parent.iterdir()) == ["low.onnx", "low.onnx.data"]
    assert types(OnnxGraph(target)) == dict.fromkeys("uvc", PRECISIONS[settings.precision].word)
    assert lowered.differences["y"] < CLOSE[settings.precision]
    again = settings.call(source=target, target=tmp_path / "again" / "copy.onnx", feeds=[X])
    assert not again.converted
    (tmp_path / "out" / "low.onnx.data").unlink()
    assert OnnxGraph(again.path).stored("u").dtype == PRECISIONS[settings.precision].dtype.numpy()


def test_a_model_above_the_limit_of_one_file_gets_external_data(tmp_path: Path) -> None:
    weights = {"u": normal(8, 512), "v": normal(512, 4), "c": normal(512)}
    path = save(model(TWO, weights), tmp_path)
    lowered = LowerPrecision(external_above=1000).call(source=path, target=tmp_path / "low.onnx", feeds=[X])
    assert (tmp_path / "low.onnx.data").stat().st_size >= 2 * 8 * 512
    assert lowered.differences["y"] < CLOSE["fp16"]


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_a_model_that_is_low_already_is_copied_byte_by_byte(dtype: Any, tmp_path: Path) -> None:
    kind = "float16" if dtype is np.float16 else "bfloat16"
    proto = model(f"g ({kind}[n,8] x) => ({kind}[n,4] y) {{ y = MatMul(x, w) }}", {"w": normal(8, 4).astype(dtype)})
    graph = opened(proto, tmp_path)
    path = rewritten(graph, tmp_path / "sparse")
    lowered = FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[], linears=linears(graph))
    assert lowered.path.read_bytes() == path.read_bytes()
    assert not lowered.converted
    assert f"{kind} already" in lowered.notes[0]
    assert ("float16 was asked for" in lowered.notes[0]) == (kind == "bfloat16")
    assert len(lowered.verified) == 1
    with pytest.raises(PatternError, match="not 2:4"):
        FP16.call(source=graph.path, target=tmp_path / "dense_low.onnx", feeds=[], linears=linears(graph))


def test_a_model_is_never_its_own_target(tmp_path: Path) -> None:
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="Expected another file"):
        FP16.call(source=path, target=tmp_path / "." / "dense.onnx", feeds=[X])
    assert path.read_bytes() == before


def test_feeds_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)
    with pytest.raises(InputError, match=r"cannot be run from node first on.*Expected calibration data that fit"):
        FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[{"x": normal(5, 7)}])
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def test_sequences_are_refused(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) { s = SequenceConstruct(x, x) a = ConcatFromSequence<axis =
        0>(s) y = MatMul(a, w) }"""
    path = save(model(text, {"w": normal(8, 4)}), tmp_path)
    for feeds in ([], [X]):
        with pytest.raises(InputError, match="sequence"):
            FP16.call(source=path, target=tmp_path / "low.onnx", feeds=feeds)


def test_types_behind_vendor_operators_need_data(tmp_path: Path) -> None:
    text, weights, _, _ = CASES["vendor operator"]
    path = save(model(text, weights, more=MIXED), tmp_path)
    with pytest.raises(InputError, match=r"the type of a, which node Gelu:a .* is not known. Give calibration data"):
        FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[])


def converted(folder: Path) -> tuple[OnnxGraph, OnnxGraph]:
    """The source with its layers, and a sound float16 file."""
    _, graph = lower(model(TWO, TWO_WEIGHTS), folder, [X])
    return OnnxGraph(folder / "dense.onnx"), graph


def with_cast(proto: onnx.ModelProto) -> None:
    """What a converter that leaves large weights alone writes: float32, cast when the model runs."""
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "u")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), "u"))
    proto.graph.node.insert(0, helper.make_node("Cast", ["u"], ["u16"], to=TensorProto.FLOAT16))
    next(node for node in proto.graph.node if node.name == "first").input[1] = "u16"


def test_a_float32_weight_behind_a_cast_is_found(tmp_path: Path) -> None:
    source, graph = converted(tmp_path)
    assert len(verify_lowered(graph, linears(source), PRECISIONS["fp16"], {})) == 2
    proto = onnx.load(graph.path)
    with_cast(proto)
    broken = opened(proto, tmp_path / "broken")
    run(broken.path, X)
    with pytest.raises(PrecisionError, match="weight u at node first is stored as float32, behind a Cast"):
        verify_lowered(broken, linears(source), PRECISIONS["fp16"], {})


def test_a_weight_left_in_float32_without_a_reason_is_found(tmp_path: Path) -> None:
    source = OnnxGraph(save(model(TWO, TWO_WEIGHTS), tmp_path))
    sparse = OnnxGraph(rewritten(source, tmp_path))
    with pytest.raises(PrecisionError, match="weight u at node first is stored as float32, directly"):
        verify_lowered(sparse, linears(source), PRECISIONS["fp16"], {})
    assert len(verify_lowered(sparse, linears(source), PRECISIONS["fp16"], {"first": "why", "second": "why"})) == 2


def test_a_third_survivor_is_found(tmp_path: Path) -> None:
    source, graph = converted(tmp_path)
    proto = onnx.load(graph.path)
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "v")
    weight.CopyFrom(numpy_helper.from_array(np.ones((16, 4), np.float16), "v"))
    with pytest.raises(PatternError, match="weight v at node second: 16 of 16 groups are not 2:4"):
        verify_lowered(opened(proto, tmp_path / "broken"), linears(source), PRECISIONS["fp16"], {})


@pytest.mark.parametrize("side", ["input", "output"])
def test_another_interface_is_found(side: str, tmp_path: Path) -> None:
    source, graph = converted(tmp_path)
    proto = onnx.load(graph.path)
    getattr(proto.graph, side)[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(PrecisionError, match=f"the {side}s were"):
        verify_interface(source.proto, proto)


def test_differences_are_of_the_whole_output(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { y = Mul(x, k) }"
    seen = {
        k: observe(opened(model(text, {"k": np.array(k, np.float32)}), tmp_path / str(k)), [X, X])
        for k in (1.0, 1.5, np.inf)
    }
    assert differences(seen[1.0], seen[1.5])["y"] == pytest.approx(0.5)
    assert differences(seen[1.0], seen[1.0])["y"] == 0
    assert differences(seen[1.0], seen[np.inf])["y"] == np.inf


def test_parts_of_any_size_see_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = opened(model(TWO, TWO_WEIGHTS), tmp_path)
    whole = observe(graph, [X])
    for name, value in (("AT_ONCE", 3), ("BYTES_AT_ONCE", 1)):
        monkeypatch.setattr(f"prox24_export.passes.precision.ranges.{name}", value)
        parts = observe(graph, [X])
        assert parts.ranges.keys() == whole.ranges.keys() == {"a", "b", "d", "y"}
        np.testing.assert_allclose(parts.outputs[0]["y"], whole.outputs[0]["y"], rtol=1e-5)


def test_every_value_is_rounded_when_it_is_observed_so(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { a = Cast<to = 10>(x) b = Mul(a, k) c = Div(b, k) y = Cast<to = 1>(c) }"
    graph = opened(model(text, {"k": np.array(40000, np.float16)}), tmp_path)
    feeds = [{"x": np.full((1, 8), 2, np.float32)}]
    seen = observe(graph, feeds, rounded=True)
    assert [name for name, found in seen.ranges.items() if not found.finite] == ["b", "c", "y"]


def test_bfloat16_values_are_rounded_although_a_float32_copy_runs(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,8] y) { a = Cast<to = 16>(x) b = Add(a, k) c = Sub(b, k)
        d = HardSigmoid(c) e = Add(c, d) f = Sub(e, d) y = Cast<to = 1>(f) }"""
    graph = opened(model(text, {"k": np.array(1, BF16)}, opset=22, ir=10), tmp_path)
    assert graph.runs_in_float32 == ("bfloat16",)
    x = normal(3, 8)
    (seen,) = observe(graph, [{"x": x}], rounded=True).outputs
    a = x.astype(BF16)
    c = (a + BF16.type(1)) - BF16.type(1)
    d = np.clip(BF16.type(0.2).astype(np.float32) * c.astype(np.float32) + 0.5, 0, 1).astype(BF16)
    np.testing.assert_allclose(seen["y"], ((c + d) - d).astype(np.float32), atol=2.0**-7)
    (loose,) = observe(graph, [{"x": x}]).outputs
    assert np.abs(loose["y"] - x).max() < 1e-5 < np.abs(seen["y"] - x).max()


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_rounding_keeps_zeros_and_finiteness_and_is_to_nearest(array: Array) -> None:
    for word, dtype in (("float16", np.dtype(np.float16)), ("bfloat16", BF16)):
        low = rounded(array, word)
        assert low.dtype == dtype
        assert np.array_equal(np.isfinite(low), np.isfinite(array))
        assert not np.signbit(low[low == 0]).any()
        assert (low[array == 0] == 0).all()
        wide = low.astype(np.float64)
        inside = np.abs(array) <= largest(word)
        expected = array[inside].astype(dtype).astype(np.float64)
        np.testing.assert_array_equal(wide[inside], expected)


@given(st.integers(0, 2**31), st.sampled_from(["fp16", "bf16"]))
def test_what_is_two_four_stays_so(seed: int, name: str) -> None:
    matrix = np.random.default_rng(seed).standard_normal((6, 16)).astype(np.float32) * 10.0 ** (seed % 9 - 8)
    order = np.abs(matrix.reshape(6, 4, 4)).argsort(-1)
    np.put_along_axis(matrix.reshape(6, 4, 4), order[..., :2], 0, -1)
    assert is_two_four(PRECISIONS[name].of(matrix))


def quantised(zero: int, *, kind: Any = np.int8, axis: int | None = None) -> tuple[str, dict[str, Array]]:
    """A MatMul with Q→DQ around its activation and its weight."""
    text = f"""g (float[n,8] x) => (float[n,4] y) {{
        qx = QuantizeLinear(x, sx, zx) dx = DequantizeLinear(qx, sx, zx)
        qw = QuantizeLinear<axis = {axis or 0}>(w, sw, zw) dw = DequantizeLinear<axis = {axis or 0}>(qw, sw, zw)
        [mul] y = MatMul(dx, dw) }}"""
    size = () if axis is None else (8, 4)[axis : axis + 1]
    scale = np.full(size, 0.05, np.float32) if axis is None else np.linspace(0.03, 0.08, size[0], dtype=np.float32)
    weights = {"w": normal(8, 4), "sw": scale, "zw": np.full(size, zero, kind)}
    return text, weights | {"sx": np.array(0.1, np.float32), "zx": np.array(0, np.int8)}


@pytest.mark.parametrize(("zero", "kind"), [(0, np.int8), (3, np.int8), (128, np.uint8), (-7, np.int8)])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_zero_is_the_zero_point_after_quantisation(zero: int, kind: Any, axis: int | None, tmp_path: Path) -> None:
    proto = model(*quantised(zero, kind=kind, axis=axis))
    lowered, _ = lower(proto, tmp_path, [X])
    assert not lowered.converted
    assert "quantised" in lowered.notes[0]
    assert lowered.path.read_bytes() == (tmp_path / "sparse" / "model.onnx").read_bytes()
    assert [(check.node, check.groups, check.violations) for check in lowered.verified] == [("mul", 8, 0)]
    with pytest.raises(PatternError, match=r"node mul: 8 of 8 groups of quantised weights are not 2:4"):
        verify_quantised(OnnxGraph(tmp_path / "dense.onnx"), ["mul"])


def stored_integers(zero: int | None, integers: Array) -> onnx.ModelProto:
    given = "" if zero is None else ", z"
    text = f"""g (float[n,8] x) => (float[n,4] y) {{ d = DequantizeLinear(q, s{given}) t = Transpose<perm = [1, 0]>(d)
        [mul] y = MatMul(x, t) }}"""
    weights = {"q": integers, "s": np.array(0.1, np.float32)}
    return model(text, weights if zero is None else weights | {"z": np.array(zero, integers.dtype)})


@pytest.mark.parametrize("zero", [None, 0, 5])
def test_stored_integers_are_looked_at_against_their_zero_point(zero: int | None, tmp_path: Path) -> None:
    point = zero or 0
    integers = np.full((4, 8), point, np.int8)
    integers[:, [0, 3, 5, 6]] = 17
    good = opened(stored_integers(zero, integers), tmp_path)
    assert [check.violations for check in verify_quantised(good, ["mul"])] == [0]
    integers[2, 1] = 18
    with pytest.raises(PatternError, match="1 of 8 groups of quantised"):
        verify_quantised(opened(stored_integers(zero, integers), tmp_path), ["mul"])


def test_integer_zeros_that_are_not_the_zero_point_do_not_count(tmp_path: Path) -> None:
    integers = np.zeros((4, 8), np.int8)
    integers[:, [0, 3, 5, 6]] = 17
    with pytest.raises(PatternError, match="8 of 8 groups"):
        verify_quantised(opened(stored_integers(5, integers), tmp_path), ["mul"])


def test_zero_points_of_blocks(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) { d = DequantizeLinear<axis = 0, block_size = 4>(q, s, z) [mul]
        y = MatMul(x, d) }"""
    zero = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int8)
    integers = np.repeat(zero, 4, axis=0)
    integers[[0, 1, 6, 7]] += 1
    weights: dict[str, Array] = {"q": integers, "s": np.full((2, 4), 0.1, np.float32), "z": zero}
    graph = opened(model(text, weights, opset=21, ir=10), tmp_path)
    assert [check.violations for check in verify_quantised(graph, ["mul"])] == [0]
    with pytest.raises(PatternError, match="groups of quantised"):
        verify_quantised(opened(model(text, weights | {"z": zero[::-1].copy()}, opset=21, ir=10), tmp_path), ["mul"])


def test_a_node_without_a_weight_is_found(tmp_path: Path) -> None:
    graph = opened(model(*quantised(0)), tmp_path)
    with pytest.raises(PatternError, match="node other is no linear layer"):
        verify_quantised(graph, ["other"])


def test_autocast_is_refused_before_any_work_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.passes.precision.autocast.find_spec", lambda _: None)
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)
    with pytest.raises(UnavailableError, match=r"pip install 'prox24-export\[modelopt\]'"):
        LowerPrecision(converter="autocast").call(source=path, target=tmp_path / "low.onnx", feeds=[X])
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def stand_in(monkeypatch: pytest.MonkeyPatch, write: Any) -> list[dict[str, Any]]:
    """modelopt with the one function that is used, whose signature is that of 0.47."""
    calls: list[dict[str, Any]] = []

    def convert_to_mixed_precision(  # noqa: PLR0917 (the signature is modelopt's)
        onnx_path: str,
        low_precision_type: str = "fp16",
        nodes_to_exclude: list[str] | None = None,
        op_types_to_exclude: list[str] | None = None,
        nodes_to_include: list[str] | None = None,
        op_types_to_include: list[str] | None = None,
        data_max: float = 512,
        init_max: float = 65504,
        keep_io_types: bool = False,
        calibration_data: str | None = None,
    ) -> onnx.ModelProto:
        del nodes_to_exclude, op_types_to_exclude, nodes_to_include, op_types_to_include, data_max, init_max
        data = [dict(np.load(file)) for file in sorted(Path(str(calibration_data)).iterdir())]
        calls.append({"type": low_precision_type, "keep": keep_io_types, "data": data})
        result: onnx.ModelProto = write(Path(onnx_path))
        return result

    names = ("modelopt", "modelopt.onnx", "modelopt.onnx.autocast")
    modules = {name: ModuleType(name) for name in names}
    modules[names[-1]].convert_to_mixed_precision = convert_to_mixed_precision  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("prox24_export.passes.precision.autocast.find_spec", lambda _: True)
    return calls


def test_autocast_is_given_every_feed_and_its_file_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, graph = converted(tmp_path / "ours")
    path = tmp_path / "ours" / "sparse" / "model.onnx"
    calls = stand_in(monkeypatch, lambda _: onnx.load(graph.path))
    settings = LowerPrecision(converter="autocast")
    lowered = settings.call(
        source=path, target=tmp_path / "low.onnx", feeds=[X, {"x": normal(2, 8)}], linears=linears(source)
    )
    assert [(call["type"], call["keep"], len(call["data"])) for call in calls] == [("fp16", True, 2)]
    np.testing.assert_array_equal(calls[0]["data"][1]["x"], normal(2, 8))
    assert lowered.kept_in_fp32 == {}
    assert len(lowered.verified) == 2

    def runtime_cast(_: Path) -> onnx.ModelProto:
        proto = onnx.load(graph.path)
        with_cast(proto)
        return proto

    stand_in(monkeypatch, runtime_cast)
    with pytest.raises(PrecisionError, match="behind a Cast"):
        settings.call(source=path, target=tmp_path / "other.onnx", feeds=[X], linears=linears(source))
    assert not (tmp_path / "other.onnx").exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx_ir.save", fail)
    with pytest.raises(OSError, match="No space"):
        FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[X])
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def test_quantised_products_and_their_quantised_results_are_told(tmp_path: Path) -> None:
    text = """g (float[N,8] x) => (float[N,8] y, float[N,8] z) {
        q = QuantizeLinear(x, s, o) d = DequantizeLinear(q, s, o)
        wq = QuantizeLinear(w, s, o) wd = DequantizeLinear(wq, s, o)
        [inner] a = MatMul(d, wd) b = Add(a, bias) r = Relu(b)
        rq = QuantizeLinear(r, s, o) rd = DequantizeLinear(rq, s, o)
        [last] y = MatMul(rd, wd)
        [plain] z = MatMul(x, v)
    }"""
    zero, scale = np.zeros((), np.int8), np.array(0.05, np.float32)
    weights = {"w": normal(8, 8), "v": normal(8, 8), "bias": normal(8), "s": scale, "o": zero}
    graph = opened(model(text, weights), tmp_path)
    assert quantised_products(graph) == ({"inner", "last"}, {"inner"})
