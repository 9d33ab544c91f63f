"""Awkward graphs in float16 and bfloat16: the same function by ONNX Runtime, sparse where it was."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.check import verify_interface
from prox24_export.passes.precision.types import PRECISIONS
from tests.graphs import linears, model, normal, polygraphys_verdict, run, save
from tests.passes.precision.lowered import BF16_PASS, CLOSE, FP16, X, lower, types

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


def test_types_behind_vendor_operators_need_data(tmp_path: Path) -> None:
    text, weights, _, _ = CASES["vendor operator"]
    path = save(model(text, weights, more=MIXED), tmp_path)
    with pytest.raises(InputError, match=r"the type of a, which node Gelu:a .* is not known. Give calibration data"):
        FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[])
