"""Networks of 8 × 8 layers, chains of residual blocks and a strided convolution, for tests of calibration."""

import numpy as np
import onnx

from tests.graphs import model, normal

GRAPHS = {
    "residual branches": """g (float[n,8] x) => (float[n,8] y) {
        a = MatMul(x, u) r = Relu(a) s = Add(r, x) b = MatMul(s, v) t = Add(b, s) c = MatMul(t, w) y = Add(c, x) }""",
    "attention": """g (float[n,8] x) => (float[n,8] y) {
        q = MatMul(x, u) k = MatMul(x, v) t = Transpose(k) s = MatMul(q, t) p = Softmax(s)
        o = MatMul(p, x) h = MatMul(o, w) y = Relu(h) }""",
    "layers that read a graph input at every depth": """g (float[n,8] x) => (float[n,8] y) {
        a = MatMul(x, u) b = MatMul(a, v) c = MatMul(x, w) y = Sum(a, b, c) }""",
    "dynamic shapes": """g (float[n,8] x) => (float[m,8] y) {
        s = Shape(x) i = Constant<value = int64 {0}>() d = Gather(s, i) f = Unsqueeze(d, zero)
        t = Concat<axis = 0>(f, eight)
        a = MatMul(x, u) r = Reshape(a, t) b = MatMul(r, v) e = Expand(b, t) y = MatMul(e, w) }""",
    "If with captured values downstream": """g (float[n,8] x) => (float[n,8] y) {
        a = MatMul(x, u) m = ReduceMax<keepdims = 0>(x) c = Greater(m, zero_float)
        b = If(c) <then_branch = t () => (float[n,8] p) { i = Relu(a) p = Add(i, x) },
                   else_branch = e () => (float[n,8] o) { o = Neg(a) }>
        d = MatMul(b, v) y = MatMul(d, w) }""",
    "a constant computed from a weight's neighbour": """g (float[n,8] x) => (float[n,8] y) {
        k = Exp(bias) a = MatMul(x, u) b = Add(a, k) c = MatMul(b, v) d = Add(c, k) y = MatMul(d, w) }""",
    "two outputs, one of them read": """g (float[n,8] x) => (float[n,8] y) {
        a = MatMul(x, u) p, q = Split<axis = 0>(a, halves) b = MatMul(q, v) y = MatMul(b, w) }""",
}
EXTRA = {
    "zero": np.array([0]),
    "eight": np.array([8]),
    "zero_float": np.array(0, np.float32),
    "bias": normal(8, seed=9),
    "halves": np.array([2, 2]),
}


def uvw(text: str) -> onnx.ModelProto:
    weights = {name: normal(8, 8, seed=place) for place, name in enumerate("uvw")}
    return model(text, weights | {name: array for name, array in EXTRA.items() if name in text})


BLOCK = "[up{i}] a{i} = MatMul(h{i}, w{i}) r{i} = Relu(a{i}) [down{i}] b{i} = MatMul(r{i}, v{i}) h{j} = Add(b{i}, h{i})"


def residual_blocks(count: int) -> onnx.ModelProto:
    """Two layers a block, then a Tanh and a Relu that no layer reads."""
    body = " ".join(BLOCK.format(i=i, j=i + 1) for i in range(count))
    weights = {f"{name}{i}": 0.3 * normal(8, 8, seed=i) for i in range(count) for name in "wv"}
    text = f"g (float[n,8] x) => (float[n,8] y) {{ h0 = Identity(x) {body} z = Tanh(h{count}) y = Relu(z) }}"
    return model(text, weights)


def convolutional() -> onnx.ModelProto:
    text = (
        "g (float[n,4,6,6] x) => (float[n,8,p,q] y) { a = Relu(x) y = Conv<pads = [1,1,1,1], strides = [2,2]>(a, w) }"
    )
    return model(text, {"w": normal(8, 4, 3, 3)})
