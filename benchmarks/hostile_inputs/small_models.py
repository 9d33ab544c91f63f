"""Small valid ONNX models, from which bad ones are made."""

import functools

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

PLAIN = "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) y = Gemm(b, v, c) }"
GRAPHS = {
    "plain": (PLAIN, {"w": (8, 16), "v": (16, 4), "c": (4,)}),
    "conv": (
        (
            "g (float[N,4,6,6] x) => (float[N,8] y) { a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w) b = Relu(a) "
            "d = GlobalAveragePool(b) y = Flatten(d) }"
        ),
        {"w": (8, 4, 3, 3)},
    ),
    "branch": (
        (
            "g (float[N,8] x, bool flag) => (float[N,8] y) { a = MatMul(x, w) y = If (flag) <then_branch = t () => "
            "(float[N,8] p) { p = Relu(a) }, else_branch = e () => (float[N,8] q) { q = Neg(a) }> }"
        ),
        {"w": (8, 8)},
    ),
    "loop": (
        (
            "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) n = Constant<value = int64 {3}>() "
            "k = Constant<value = bool {1}>() y = Loop(n, k, a) <body = l (int64 i, bool go, float[N,8] s) => "
            "(bool more, float[N,8] r) { more = Identity(go) r = Relu(s) }> }"
        ),
        {"w": (8, 8)},
    ),
    "folded": (
        (
            "g (float[N,8] x) => (float[N,8] y) { m = ReduceL2<axes=[0]>(w) h = Div(w, m) a = MatMul(x, h) "
            "p, q = Split<axis=1>(v) b = MatMul(a, p) c = MatMul(a, q) y = Concat<axis=1>(b, c) }"
        ),
        {"w": (8, 8), "v": (8, 8)},
    ),
    "quantised": (
        "g (float[N,8] x) => (float[N,8] y) { q = QuantizeLinear(w, s) d = DequantizeLinear(q, s) y = MatMul(x, d) }",
        {"w": (8, 8), "s": ()},
    ),
    "attention": (
        (
            "g (float[N,4,8] x) => (float[N,4,8] y) { q = MatMul(x, wq) k = MatMul(x, wk) "
            "t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) p = Softmax(s) o = MatMul(p, x) y = MatMul(o, wo) }"
        ),
        {"wq": (8, 8), "wk": (8, 8), "wo": (8, 8)},
    ),
}
NAMES = (*GRAPHS, "function")
FUNCTION = (
    '<domain: "own", opset_import: ["" : 13]> Linear (p, r) => (s) { t = MatMul(p, r) s = Relu(t) }',
    "g (float[N,8] x) => (float[N,8] y) { a = own.Linear(x, w) y = MatMul(a, v) }",
)


@functools.cache
def _make_bytes(name: str) -> bytes:
    numbers = np.random.default_rng(7)
    graph, shapes = GRAPHS.get(name, (FUNCTION[1], {"w": (8, 8), "v": (8, 8)}))
    text = f'<ir_version: 8, opset_import: ["" : 13, "own" : 1]> {graph}'
    proto = onnx.parser.parse_model(text + (FUNCTION[0] if name == "function" else ""))
    for weight, shape in shapes.items():
        array = np.abs(numbers.standard_normal(shape)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), weight))
    for place, node in enumerate(proto.graph.node):
        node.name = f"node{place}"
    return proto.SerializeToString()


def make_model(name: str = "plain") -> onnx.ModelProto:
    """A fresh copy of one of the models."""
    return onnx.ModelProto.FromString(_make_bytes(name))


def make_bytes(name: str = "plain") -> bytes:
    """The bytes of its file."""
    return _make_bytes(name)
