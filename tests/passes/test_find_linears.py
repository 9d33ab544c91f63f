"""Every node becomes a Linear or a Skipped: what is recognised, what is refused, and in which words."""

# ruff: noqa: E501 (one graph, one line)

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, Reason, Skipped
from tests.graphs import BF16, found, linears, model, normal, opened

X = "float[2,8] x"
W = {"w": normal(8, 12)}  # [K, N] = [8, 12]
WT = {"w": normal(12, 8)}


def one(proto: onnx.ModelProto, folder: Path) -> Linear | Skipped:
    """The only row."""
    (layer,) = found(opened(proto, folder))
    return layer


RECOGNISED: dict[str, tuple[str, dict[str, Array]]] = {
    "constant on the right": (f"g ({X}) => (float[2,12] y) {{ y = MatMul(x, w) }}", W),
    "constant on the left": ("g (float[8,2] x) => (float[12,2] y) { y = MatMul(w, x) }", WT),
    "activation of rank 3": ("g (float[2,3,8] x) => (float[2,3,12] y) { y = MatMul(x, w) }", W),
    "activation of rank 4": ("g (float[2,2,3,8] x) => (float[2,2,3,12] y) { y = MatMul(x, w) }", W),
    "leading axis of size 1": (f"g ({X}) => (float[1,2,12] y) {{ y = MatMul(x, w) }}", {"w": normal(1, 8, 12)}),
    "Gemm": (f"g ({X}) => (float[2,12] y) {{ y = Gemm(x, w) }}", W),
    "Gemm transB": (f"g ({X}) => (float[2,12] y) {{ y = Gemm<transB = 1>(x, w) }}", WT),
    "Gemm transA": ("g (float[8,2] x) => (float[2,12] y) { y = Gemm<transA = 1, alpha = 0.5>(x, w) }", W),
    "Gemm, weight as A": ("g (float[8,2] x) => (float[12,2] y) { y = Gemm(w, x) }", WT),
    "Gemm, weight as A, transA": ("g (float[8,2] x) => (float[12,2] y) { y = Gemm<transA = 1>(w, x) }", W),
    "Constant node": (
        f"g ({X}) => (float[2,12] y) {{ w = Constant<value = float[8,12] {{{','.join(['0.5'] * 96)}}}>() y = MatMul(x, w) }}",
        {},
    ),
    "Identity": (f"g ({X}) => (float[2,12] y) {{ v = Identity(w) y = MatMul(x, v) }}", W),
    "Transpose": (f"g ({X}) => (float[2,12] y) {{ v = Transpose<perm = [1, 0]>(w) y = MatMul(x, v) }}", WT),
    "Transpose without perm": (f"g ({X}) => (float[2,12] y) {{ v = Transpose(w) y = MatMul(x, v) }}", WT),
    "Reshape": (
        f"g ({X}) => (float[2,12] y) {{ s = Constant<value = int64[2] {{8, -1}}>() v = Reshape(w, s) y = MatMul(x, v) }}",
        {"w": normal(2, 4, 12)},
    ),
    "Reshape with 0": (
        f"g ({X}) => (float[2,12] y) {{ s = Constant<value_ints = [0, -1]>() v = Reshape(w, s) y = MatMul(x, v) }}",
        {"w": normal(8, 3, 4)},
    ),
    "Reshape with allowzero": (
        f"g ({X}) => (float[2,12] y) {{ v = Reshape<allowzero = 1>(w, s) y = MatMul(x, v) }}",
        {"w": normal(8, 3, 4), "s": np.array([8, 12])},
    ),
    "Transpose, Reshape, Identity": (
        f"g ({X}) => (float[2,12] y) {{ a = Transpose<perm = [2, 0, 1]>(w) b = Reshape(a, s) c = Identity(b) y = MatMul(x, c) }}",
        {"w": normal(3, 4, 8), "s": np.array([8, 12])},
    ),
    "Unsqueeze": (
        f"g ({X}) => (float[1,2,12] y) {{ v = Unsqueeze(w, a) y = MatMul(x, v) }}",
        {**W, "a": np.array([-3])},
    ),
    "Squeeze": (
        f"g ({X}) => (float[2,12] y) {{ v = Squeeze(w, a) y = MatMul(x, v) }}",
        {"w": normal(8, 1, 12), "a": np.array([-2])},
    ),
    "Squeeze without axes": (
        f"g ({X}) => (float[2,12] y) {{ v = Squeeze(w) y = MatMul(x, v) }}",
        {"w": normal(1, 8, 1, 12)},
    ),
    "Flatten": (f"g ({X}) => (float[2,12] y) {{ v = Flatten(w) y = MatMul(x, v) }}", {"w": normal(8, 3, 4)}),
    "Flatten before the last axis": (
        f"g ({X}) => (float[2,12] y) {{ v = Flatten<axis = -1>(w) y = MatMul(x, v) }}",
        {"w": normal(2, 4, 12)},
    ),
    "Cast": (
        f"g ({X}) => (float[2,12] y) {{ v = Cast<to = 1>(w) y = MatMul(x, v) }}",
        {"w": normal(8, 12, dtype=np.float16)},
    ),
    "QDQ of a float": (
        f"g ({X}) => (float[2,12] y) {{ q = QuantizeLinear(w, s, z) v = DequantizeLinear(q, s, z) y = MatMul(x, v) }}",
        {**W, "s": np.array(0.02, np.float32), "z": np.array(0, np.int8)},
    ),
    "float16": ("g (float16[2,8] x) => (float16[2,12] y) { y = MatMul(x, w) }", {"w": normal(8, 12, dtype=np.float16)}),
    "bfloat16": ("g (bfloat16[2,8] x) => (bfloat16[2,12] y) { y = MatMul(x, w) }", {"w": normal(8, 12).astype(BF16)}),
    "float64": ("g (double[2,8] x) => (double[2,12] y) { y = MatMul(x, w) }", {"w": normal(8, 12, dtype=np.float64)}),
    "listed as a graph input": (f"g ({X}, float[8,12] w) => (float[2,12] y) {{ y = MatMul(x, w) }}", W),
}


@pytest.mark.parametrize("case", RECOGNISED)
def test_a_constant_weight_is_recognised_wherever_it_stands(case: str, tmp_path: Path) -> None:
    text, weights = RECOGNISED[case]
    graph = opened(model(text, weights), tmp_path)
    (layer,) = linears(graph)
    assert (layer.weight, layer.k, layer.n, layer.parameters) == ("w", 8, 12, 96)
    assert layer.dtype == (str(weights["w"].dtype) if weights else "float32")
    assert [(use.activation, use.node) for use in layer.uses] == [("x", layer.name)]
    assert [value.name for value in graph.inputs] == ["x"]


def test_the_matrix_has_the_reduction_dimension_last(tmp_path: Path) -> None:
    weight = normal(8, 12)
    for text, stored in (
        (f"g ({X}) => (float[2,12] y) {{ y = MatMul(x, w) }}", weight),
        (f"g ({X}) => (float[2,12] y) {{ y = Gemm<transB = 1>(x, w) }}", weight.T.copy()),
        (f"g ({X}) => (float[2,12] y) {{ v = Transpose(w) y = MatMul(x, v) }}", weight.T.copy()),
    ):
        graph = opened(model(text, {"w": stored}), tmp_path)
        np.testing.assert_array_equal(graph.weight(linears(graph)[0]).numpy(), weight.T)


@pytest.mark.parametrize(("kernel", "axes"), [((3,), "L"), ((3, 2), "H,M"), ((3, 1, 2), "D,H,M")])
def test_a_convolution_is_grouped_along_its_input_channels(kernel: tuple[int, ...], axes: str, tmp_path: Path) -> None:
    stored = normal(6, 8, *kernel)
    proto = model(f"g (float[2,8,{axes}] x) => (float[2,6,{axes.lower()}] y) {{ y = Conv(x, w) }}", {"w": stored})
    graph = opened(proto, tmp_path)
    (layer,) = linears(graph)
    assert (layer.k, layer.n) == (8 * int(np.prod(kernel)), 6)
    by_position = graph.weight(layer).numpy().reshape(6, *kernel, 8)
    np.testing.assert_array_equal(by_position, np.moveaxis(stored, 1, -1))
    assert layer.notes == (
        "C_in % 16 ≠ 0: an fp16 sparse kernel is unlikely",
        "N % 8 ≠ 0: an fp16 sparse kernel is unlikely",
    )


def test_a_reshape_from_before_opset_5_keeps_its_shape_in_an_attribute(tmp_path: Path) -> None:
    proto = model("g (float[2,8] x) => (float[2,12] y) { y = MatMul(x, v) }", {"w": normal(96)}, opset=4, ir=3)
    proto.graph.node.insert(0, helper.make_node("Reshape", ["w"], ["v"], shape=[8, 12]))
    assert isinstance(one(proto, tmp_path), Linear)


def test_axes_from_before_opset_13_are_attributes(tmp_path: Path) -> None:
    text = f"g ({X}) => (float[2,12] y) {{ u = Unsqueeze<axes = [0, 3]>(w) v = Squeeze<axes = [3, 0]>(u) y = MatMul(x, v) }}"
    assert one(model(text, W, opset=11), tmp_path).weight == "w"


SHARED = {
    "MatMul twice": ("y = MatMul(x, w) z = MatMul(t, w)", normal(8, 8)),
    "Gemm transB and MatMul behind Transpose": (
        "v = Transpose(w) y = Gemm<transB = 1>(x, w) z = MatMul(t, v)",
        normal(8, 8),
    ),
    "both sides of a product": (
        "u = Transpose(t) v = Transpose(w) y = MatMul(x, w) r = MatMul(v, u) z = Transpose(r)",
        normal(8, 8),
    ),
    "a kernel of size 1 and a product": (
        "r = Reshape(w, s) u = Unsqueeze(x, i) c = Conv(u, w) y = Squeeze(c, i) z = Gemm<transB = 1>(t, r)",
        normal(8, 8, 1),
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_a_weight_shared_along_one_axis_is_one_layer(case: str, tmp_path: Path) -> None:
    body, weight = SHARED[case]
    shape = {"s": np.array([8, 8]), "i": np.array([2])}
    proto = model(f"g ({X}, float[2,8] t) => (float[2,8] y, float[2,8] z) {{ {body} }}", {"w": weight, **shape})
    layer = one(proto, tmp_path)
    assert isinstance(layer, Linear), layer
    assert len(layer.uses) == 2
    assert {use.activation for use in layer.uses} & {"x", "u"}
    assert layer.notes[-1] == "one weight, 2 uses"


@pytest.mark.parametrize(
    "body",
    [
        "v = Transpose(w) y = MatMul(x, w) z = MatMul(t, v)",
        "y = Gemm<transB = 1>(x, w) z = MatMul(t, w)",
        "y = MatMul(x, w) u = Transpose(t) z = MatMul(w, u)",
    ],
)
def test_a_weight_shared_along_two_axes_is_skipped_at_every_use(body: str, tmp_path: Path) -> None:
    proto = model(f"g ({X}, float[2,8] t) => (float[2,8] y, float[2,8] z) {{ {body} }}", {"w": normal(8, 8)})
    rows = found(opened(proto, tmp_path))
    assert [row.reason for row in rows if isinstance(row, Skipped)] == [Reason.TWO_AXES] * 2
    nodes = ", ".join(row.name for row in rows)
    assert {row.sentence for row in rows if isinstance(row, Skipped)} == {f"{Reason.TWO_AXES.value} (nodes {nodes})"}


@dataclass(frozen=True)
class Refused:
    """A graph with one node that must be skipped; `size` is (K, N, parameters)."""

    text: str
    weights: dict[str, Array]
    reason: Reason
    detail: str
    size: tuple[int | None, int | None, int]
    more: str = ""
    others: int = 0  # further rows
    functions: str = ""
    op: str = field(default="")


QUANTISED: dict[str, Array] = {
    "w": np.ones((8, 12), np.int8),
    "s": np.array(0.1, np.float32),
    "z": np.array(0, np.int8),
}
CONV = "g (float[1,8,9] x) => (float[1,C,L] y)"
MS = ', "com.microsoft" : 1'
LOOP = "n = Constant<value = int64 {2}>() y = Loop(n, c, x) <body = b (int64 i, bool p, float[2,8] h) => (bool q, float[2,8] o) { q = Identity(p) o = MatMul(h, w) }>"
SCAN = "y = Scan<num_scan_inputs = 1, body = b (float[8] h) => (float[12] o) { o = MatMul(h, w) }>(x)"
IF = "y = If(c) <then_branch = t () => (float[2,12] a) { a = MatMul(x, w) }, else_branch = e () => (float[2,12] b) { b = MatMul(x, w2) }>"
LINEAR = '<domain: "local", opset_import: ["" : 17]> Dense (a, b) => (r) { r = MatMul(a, b) }'

REFUSED = {
    "grouped": Refused(f"{CONV} {{ y = Conv<group = 2>(x, w) }}", {"w": normal(6, 4, 3)}, Reason.GROUPED_CONV, "group = 2, C_in / group = 4", (12, 6, 72)),
    "depthwise": Refused(f"{CONV} {{ y = Conv<group = 8>(x, w) }}", {"w": normal(8, 1, 3)}, Reason.GROUPED_CONV, "group = 8", (3, 8, 24)),
    "ConvTranspose": Refused(f"{CONV} {{ y = ConvTranspose(x, w) }}", {"w": normal(8, 4, 3)}, Reason.TRANSPOSED_CONV, "", (24, 4, 96)),
    "grouped ConvTranspose": Refused(f"{CONV} {{ y = ConvTranspose<group = 2>(x, w) }}", {"w": normal(8, 4, 3)}, Reason.TRANSPOSED_CONV, "", (12, 8, 96)),
    "DeformConv": Refused("g (float[1,4,5,5] x, float[1,2,5,5] o) => (float[1,6,5,5] y) { y = DeformConv(x, w, o) }", {"w": normal(6, 4, 1, 1)}, Reason.DEFORMABLE_CONV, "", (4, 6, 24)),
    "K % 4": Refused("g (float[2,6] x) => (float[2,4] y) { y = MatMul(x, w) }", {"w": normal(6, 4)}, Reason.NOT_MULTIPLE_OF_FOUR, "K = 6", (6, 4, 24)),
    "C_in % 4": Refused("g (float[1,3,9] x) => (float[1,4,9] y) { y = Conv(x, w) }", {"w": normal(4, 3, 4)}, Reason.NOT_MULTIPLE_OF_FOUR, "C_in = 3", (12, 4, 48)),
    "not constant": Refused(f"g ({X}) => (float[2,2] y) {{ t = Transpose(x) y = MatMul(x, t) }}", {}, Reason.NOT_CONSTANT, "both operands are activations", (None, None, 0)),
    "computed": Refused(f"g ({X}) => (float[2,12] y) {{ v = Selu(w) y = MatMul(x, v) }}", W, Reason.COMPUTED, "Selu", (8, 12, 0)),
    "computed by Concat, on the left": Refused("g (float[8,2] x) => (float[12,2] y) { c = Selu(a) v = Concat<axis = 0>(c, b) y = MatMul(v, x) }", {"a": normal(5, 8), "b": normal(7, 8)}, Reason.COMPUTED, "Concat", (8, 12, 0)),
    "computed by Split and Reshape": Refused(f"g ({X}) => (float[2,12] y) {{ d = Selu(w) a, b = Split<axis = 0>(d) c = Reshape(b, s) y = Gemm<transB = 1>(x, c) }}", {"w": normal(2, 96), "s": np.array([12, -1])}, Reason.COMPUTED, "Split", (8, 12, 0)),
    "kernel computed by Mul from integers": Refused(f"{CONV} {{ d = DequantizeLinear(w, q) v = Mul(d, s) y = Conv(x, v) }}", {"w": np.ones((4, 8, 3), np.int8), "q": np.array(0.1, np.float32), "s": normal(4, 1, 1)}, Reason.COMPUTED, "Mul", (24, 4, 0)),
    "integers without DequantizeLinear": Refused(f"g ({X}) => (float[2,12] y) {{ c = Cast<to = 1>(w) v = Mul(c, s) y = MatMul(x, v) }}", {"w": np.ones((8, 12), np.int8), "s": normal(12)}, Reason.COMPUTED, "Mul", (8, 12, 0)),
    "kernel from an input": Refused("g (float[1,8,9] x, float[4,8,1] v) => (float[1,4,9] y) { y = Conv(x, v) }", {}, Reason.NOT_CONSTANT, "", (None, None, 0)),
    "batched": Refused("g (float[3,2,8] x) => (float[3,2,12] y) { y = MatMul(x, w) }", {"w": normal(3, 8, 12)}, Reason.BATCHED_WEIGHT, "shape [3, 8, 12]", (8, 12, 288)),
    "vector": Refused(f"g ({X}) => (float[2] y) {{ y = MatMul(x, w) }}", {"w": normal(8)}, Reason.VECTOR_WEIGHT, "shape [8]", (None, None, 8)),
    "convolution with a vector": Refused(f"{CONV} {{ y = Conv(x, w) }}", {"w": normal(8)}, Reason.VECTOR_WEIGHT, "shape [8]", (None, None, 8)),
    "two constants": Refused("g (float[8,12] x) => (float[8,12] y) { v = MatMul(a, w) y = Add(x, v) }", {"a": normal(8, 8), **W}, Reason.NO_ACTIVATION, "", (8, 12, 96)),
    "constant activation": Refused("g (float[2,12] x) => (float[2,12] y) { t = Tanh(a) v = MatMul(t, w) y = Add(x, v) }", {"a": normal(2, 8), **W}, Reason.NO_ACTIVATION, "t depends on no input", (8, 12, 96)),
    "integers behind Cast": Refused(f"g ({X}) => (float[2,12] y) {{ v = Cast<to = 1>(w) y = MatMul(x, v) }}", {"w": np.ones((8, 12), np.int8)}, Reason.WEIGHT_TYPE, "int8", (8, 12, 96)),
    "float rounded by Cast": Refused(f"g ({X}) => (float[2,12] y) {{ i = Cast<to = 6>(w) v = Cast<to = 1>(i) y = MatMul(x, v) }}", W, Reason.COMPUTED, "Cast", (8, 12, 0)),
    "Einsum": Refused(f'g ({X}) => (float[2,12] y) {{ y = Einsum<equation = "ij,jk->ik">(x, w) }}', W, Reason.EINSUM, "", (None, None, 96)),
    "MatMulInteger": Refused("g (uint8[2,8] x) => (int32[2,12] y) { y = MatMulInteger(x, w) }", QUANTISED, Reason.INTEGER_OPERATOR, "", (8, 12, 96)),
    "ConvInteger": Refused("g (uint8[1,8,9] x) => (int32[1,4,9] y) { y = ConvInteger(x, w) }", {"w": np.ones((4, 8, 1), np.int8)}, Reason.INTEGER_OPERATOR, "", (8, 4, 32)),
    "QLinearMatMul": Refused("g (uint8[2,8] x) => (uint8[2,12] y) { y = QLinearMatMul(x, s, u, w, s, z, s, u) }", {**QUANTISED, "u": np.array(0, np.uint8)}, Reason.INTEGER_OPERATOR, "", (8, 12, 96)),
    "QLinearConv": Refused("g (uint8[1,8,9] x) => (uint8[1,4,7] y) { y = QLinearConv(x, s, u, w, s, z, s, u) }", {**QUANTISED, "w": np.ones((4, 8, 3), np.int8), "u": np.array(0, np.uint8)}, Reason.INTEGER_OPERATOR, "", (24, 4, 96)),
    "FusedMatMul": Refused(f"g ({X}) => (float[2,12] y) {{ y = com.microsoft.FusedMatMul<transB = 1>(x, w) }}", WT, Reason.FUSED_OPERATOR, "com.microsoft.FusedMatMul", (8, 12, 96), MS),
    "FusedConv": Refused(f'{CONV} {{ y = com.microsoft.FusedConv<activation = "Relu">(x, w) }}', {"w": normal(4, 8, 3)}, Reason.FUSED_OPERATOR, "com.microsoft.FusedConv", (24, 4, 96), MS),
    "MatMulNBits": Refused("g (float[2,32] x) => (float[2,4] y) { y = com.microsoft.MatMulNBits<K = 32, N = 4, bits = 4, block_size = 32>(x, w, s) }", {"w": np.ones((4, 1, 16), np.uint8), "s": normal(4)}, Reason.FUSED_OPERATOR, "com.microsoft.MatMulNBits", (None, None, 64), MS),
    "also read by another node": Refused(f"g ({X}) => (float[2,12] y, float[8,12] z) {{ y = MatMul(x, w) z = Relu(w) }}", W, Reason.READ_ELSEWHERE, "Relu Relu:z", (8, 12, 96)),
    "also read behind Transpose": Refused(f"g ({X}) => (float[2,12] y, float[12,8] z) {{ v = Transpose(w) z = Relu(v) y = Gemm<transB = 1>(x, v) }}", W, Reason.READ_ELSEWHERE, "Relu Relu:z", (8, 12, 96)),
    "also the bias": Refused("g (float[8,8] x) => (float[8,8] y) { y = Gemm(x, w, w) }", {"w": normal(8, 8)}, Reason.READ_ELSEWHERE, "Gemm Gemm:y", (8, 8, 64)),
    "also read in a subgraph": Refused(f"g ({X}, bool c) => (float[2,12] y, float[8,12] z) {{ y = MatMul(x, w) z = If(c) <then_branch = t () => (float[8,12] a) {{ a = Relu(w) }}, else_branch = e () => (float[8,12] b) {{ b = Neg(w) }}> }}", W, Reason.READ_IN_SUBGRAPH, "", (8, 12, 96)),
    "also a graph output": Refused(f"g ({X}) => (float[2,12] y, float[8,12] w) {{ y = MatMul(x, w) }}", W, Reason.IS_GRAPH_OUTPUT, "", (8, 12, 96)),
    "a graph output behind Identity": Refused(f"g ({X}) => (float[2,12] y, float[8,12] z) {{ y = MatMul(x, w) z = Identity(w) }}", W, Reason.IS_GRAPH_OUTPUT, "", (8, 12, 96)),
    "If": Refused(f"g ({X}, bool c) => (float[2,12] y) {{ {IF} }}", {**W, "w2": normal(8, 12)}, Reason.IN_SUBGRAPH, "", (8, 12, 96), others=1),
    "Loop": Refused(f"g ({X}, bool c) => (float[2,8] y) {{ {LOOP} }}", {"w": normal(8, 8)}, Reason.IN_SUBGRAPH, "", (8, 8, 64)),
    "Scan": Refused(f"g ({X}) => (float[2,12] y) {{ {SCAN} }}", W, Reason.IN_SUBGRAPH, "", (8, 12, 96)),
    "inside a function": Refused(f"g ({X}) => (float[2,12] y) {{ y = local.Dense(x, w) }}", W, Reason.IN_FUNCTION, "local.Dense", (None, None, 96), ', "local" : 1', others=1, functions=LINEAR),
    "int16 behind DequantizeLinear": Refused(f"g ({X}) => (float[2,12] y) {{ v = DequantizeLinear(w, s) y = MatMul(x, v) }}", {**QUANTISED, "w": np.ones((8, 12), np.int16)}, Reason.QUANTISED_WEIGHT, "int16", (8, 12, 96)),
    "int8 kernel with a scale of 0": Refused(f"{CONV} {{ v = DequantizeLinear(w, s) y = Conv(x, v) }}", {"w": np.ones((4, 8, 3), np.int8), "s": np.array(0.0, np.float32)}, Reason.QUANTISED_WEIGHT, "int8, a scale is not a positive number", (24, 4, 96)),
    "LSTM": Refused("g (float[3,1,8] x) => (float[3,1,1,4] y) { y = LSTM<hidden_size = 4>(x, w, r) }", {"w": normal(1, 16, 8), "r": normal(1, 16, 4)}, Reason.RECURRENT, "", (None, None, 128)),
    "GRU": Refused("g (float[3,1,8] x) => (float[3,1,1,4] y) { y = GRU<hidden_size = 4>(x, w, r) }", {"w": normal(1, 12, 8), "r": normal(1, 12, 4)}, Reason.RECURRENT, "", (None, None, 96)),
    "LSTM with computed weights and a bias": Refused("g (float[3,1,8] x) => (float[3,1,1,4] y) { v = Selu(w) u = Selu(r) y = LSTM<hidden_size = 4>(x, v, u, b) }", {"w": normal(1, 16, 8), "r": normal(1, 16, 4), "b": normal(1, 32)}, Reason.RECURRENT, "", (None, None, 0)),
    "Gemm with a computed weight and a bias": Refused(f"g ({X}) => (float[2,12] y) {{ v = Selu(w) y = Gemm(x, v, b) }}", {**W, "b": normal(1, 12)}, Reason.COMPUTED, "Selu", (8, 12, 0)),
    "DeformConv with a constant offset": Refused("g (float[1,4,5,5] x) => (float[1,6,5,5] y) { y = DeformConv(x, w, o) }", {"w": normal(6, 4, 1, 1), "o": normal(1, 2, 5, 5)}, Reason.DEFORMABLE_CONV, "", (4, 6, 24)),
    "tied to an embedding": Refused("g (int64[2] x) => (float[2,12] y) { h = Gather(w, x) y = Gemm<transB = 1>(h, w) }", WT, Reason.TIED_TO_EMBEDDING, "Gather:h", (8, 12, 96)),
    "tied behind Transpose": Refused("g (int64[2] x) => (float[2,12] y) { h = Gather(w, x) v = Transpose(w) y = MatMul(h, v) }", WT, Reason.TIED_TO_EMBEDDING, "Gather:h", (8, 12, 96)),
    "dead": Refused(f"g ({X}) => (float[2,8] y) {{ y = Relu(x) z = MatMul(x, w) }}", W, Reason.NOT_REACHED, "its result reaches no graph output", (8, 12, 96)),
    "weight as A, transA, refused": Refused("g (float[8,2] x) => (float[12,2] y, float[8,12] z) { z = Relu(w) y = Gemm<transA = 1>(w, x) }", W, Reason.READ_ELSEWHERE, "Relu Relu:z", (8, 12, 96)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_pruned_is_skipped_with_its_reason(case: str, tmp_path: Path) -> None:
    given = REFUSED[case]
    proto = model(given.text, given.weights, more=given.more)
    if given.functions:
        proto.functions.append(onnx.parser.parse_function(given.functions))
    rows = found(opened(proto, tmp_path))
    row = rows[0]
    assert isinstance(row, Skipped), row
    assert (row.reason, (row.k, row.n, row.parameters)) == (given.reason, given.size)
    assert given.detail in row.detail
    assert row.sentence.startswith(given.reason.value.replace("some operator", row.detail))
    assert len(rows) == 1 + given.others


@pytest.mark.parametrize(
    ("body", "weight", "parameters"),
    [("y = MatMul(x, w)", "w", 96), ("v = Identity(w) y = MatMul(x, v)", None, 0)],
)
def test_a_sparse_initializer_is_a_constant_of_a_kind_of_its_own(
    body: str, weight: str | None, parameters: int, tmp_path: Path
) -> None:
    proto = model(f"g ({X}) => (float[2,12] y) {{ {body} }}")
    parts = onnx.numpy_helper.from_array(normal(4), "w"), onnx.numpy_helper.from_array(np.arange(4), "places")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(*parts, [8, 12]))
    (row,) = found(opened(proto, tmp_path))
    assert isinstance(row, Skipped)
    assert (row.reason, row.k, row.n) == (Reason.SPARSE_INITIALIZER, 8, 12)
    assert (row.weight, row.parameters) == (weight, parameters)


def test_every_reason_has_a_case() -> None:
    covered = {case.reason for case in REFUSED.values()} | {Reason.TWO_AXES, Reason.EXCLUDED, Reason.SPARSE_INITIALIZER}
    # ONNX has no such convolution, and an ONNX file is no program of torch
    assert covered == set(Reason) - {Reason.NO_BATCH_AXIS, Reason.COMPUTED_IN_PROGRAM}


def test_a_node_inside_a_function_is_named_after_the_function(tmp_path: Path) -> None:
    given = REFUSED["inside a function"]
    proto = model(given.text, given.weights, more=given.more)
    proto.functions.append(onnx.parser.parse_function(given.functions))
    assert [(row.name, row.op) for row in found(opened(proto, tmp_path))] == [
        ("Dense:y", "Dense"),
        ("Dense/MatMul:r", "MatMul"),
    ]


def test_a_function_without_a_linear_layer_is_no_row(tmp_path: Path) -> None:
    body = '<domain: "local", opset_import: ["" : 17]> Plus (a, b) => (r) { r = Add(a, b) }'
    proto = model(f"g ({X}) => (float[2,8] y) {{ y = local.Plus(x, p) }}", {"p": normal(2, 8)}, more=', "local" : 1')
    proto.functions.append(onnx.parser.parse_function(body))
    assert found(opened(proto, tmp_path)) == []


THREE = "g (float[2,8] x) => (float[2,8] y) { [first] a = MatMul(x, w1) [mid_second] b = MatMul(a, w2) [third] y = MatMul(b, w3) }"


def three(folder: Path, **settings: tuple[str, ...]) -> dict[str, str]:
    proto = model(THREE, {f"w{index}": normal(8, 8, seed=index) for index in (1, 2, 3)})
    return {
        row.name: row.detail if isinstance(row, Skipped) else "" for row in found(opened(proto, folder), **settings)
    }


def test_globs_on_node_or_weight_names_choose_the_layers(tmp_path: Path) -> None:
    assert three(tmp_path, exclude=("mid*",)) == {"first": "", "mid_second": "--exclude mid*", "third": ""}
    assert three(tmp_path, exclude=("w3", "fir?t")) == {
        "first": "--exclude fir?t",
        "mid_second": "",
        "third": "--exclude w3",
    }
    none = "matches no --include"
    assert three(tmp_path, include=("w1", "third")) == {"first": "", "mid_second": none, "third": ""}
    assert three(tmp_path, include=("*",), exclude=("w2",))["mid_second"] == "--exclude w2"
    assert three(tmp_path, include=("FIRST",)) == {"first": none, "mid_second": none, "third": none}


def test_rows_stand_in_topological_order_whatever_becomes_of_them(tmp_path: Path) -> None:
    assert list(three(tmp_path, exclude=("first",))) == ["first", "mid_second", "third"]


def test_unnamed_and_equally_named_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    body = "a = MatMul(x, w1) [same] b = MatMul(a, w2) [same] y = MatMul(b, w3)"
    proto = model(f"g ({X}) => (float[2,8] y) {{ {body} }}", {f"w{index}": normal(8, 8) for index in (1, 2, 3)})
    assert [row.name for row in found(opened(proto, tmp_path))] == ["MatMul:a", "MatMul:b", "MatMul:y"]


def test_a_dead_use_does_not_keep_a_living_one_from_its_weight(tmp_path: Path) -> None:
    body = "dead = MatMul(t, w) y = MatMul(x, w)"
    layer = one(model(f"g ({X}, float[2,8] t) => (float[2,8] y) {{ {body} }}", {"w": normal(8, 8)}), tmp_path)
    assert isinstance(layer, Linear)
    assert [use.node for use in layer.uses] == ["MatMul:y"]


def test_a_dead_use_along_the_other_axis_still_counts(tmp_path: Path) -> None:
    body = "v = Transpose(w) dead = MatMul(t, v) y = MatMul(x, w)"
    rows = found(opened(model(f"g ({X}, float[2,8] t) => (float[2,8] y) {{ {body} }}", {"w": normal(8, 8)}), tmp_path))
    assert {row.reason for row in rows if isinstance(row, Skipped)} == {Reason.TWO_AXES}


def test_large_layers_carry_no_note(tmp_path: Path) -> None:
    layer = one(model("g (float[2,32] x) => (float[2,8] y) { y = MatMul(x, w) }", {"w": normal(32, 8)}), tmp_path)
    assert isinstance(layer, Linear)
    assert layer.notes == ()


def test_a_bias_that_is_computed_from_constants_is_no_residual_branch(tmp_path: Path) -> None:
    body = "b, c = Split<axis = 0>(bias) m = MatMul(x, w) a = Add(m, b) y = Add(a, r)"
    proto = model(f"g ({X}, float[2,8] r) => (float[2,8] y) {{ {body} }}", {"w": normal(8, 8), "bias": normal(16)})
    layer = one(proto, tmp_path)
    assert isinstance(layer, Linear)
    assert [use.residual for use in layer.uses] == ["r"]


@pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0, 3), (8, 8, 0)], ids=str)
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose<group = 0>"])
def test_weights_without_entries_end_nothing(operator: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    proto = model(f"{CONV} {{ y = {operator}(x, w) }}", {"w": np.zeros(shape, np.float32)})
    (layer,) = found(opened(proto, tmp_path))
    assert layer.weight == "w"
