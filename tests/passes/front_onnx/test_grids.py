"""Stored integers behind DequantizeLinear: which are layers, what they stand for, and why others stay dense."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, Reason, Skipped
from tests.graphs import found, linears, magnitude, model, normal, opened, polygraphys_verdict, rewritten, run

SCALE = np.array(0.1, np.float32)
PRODUCT = "g (float[n,8] x) => (float[n,12] y) {{ {} y = MatMul(x, v) }}"
DIRECT = PRODUCT.format("v = DequantizeLinear(w, s)")


def integers(*shape: int, dtype: str = "int8", seed: int = 0) -> Array:
    bounds = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(bounds.min + 1, bounds.max, shape, dtype, endpoint=True)


def per_axis(size: int, zero: int, dtype: str) -> dict[str, Array]:
    return {"s": np.linspace(0.01, 0.2, size, dtype=np.float32), "z": np.full(size, zero, dtype)}


CASES: dict[str, tuple[str, dict[str, Array]]] = {
    "int8, no zero point": (DIRECT, {"w": integers(8, 12), "s": SCALE}),
    "uint8, one zero point": (
        PRODUCT.format("v = DequantizeLinear(w, s, z)"),
        {"w": integers(8, 12, dtype="uint8"), "s": SCALE, "z": np.array(131, np.uint8)},
    ),
    "a scale of one entry": (DIRECT, {"w": integers(8, 12), "s": SCALE.reshape(1)}),
    "along N, by default": (
        PRODUCT.format("v = DequantizeLinear(w, s, z)"),
        {"w": integers(8, 12), **per_axis(12, 3, "int8")},
    ),
    "along K": (
        PRODUCT.format("v = DequantizeLinear<axis = -2>(w, s, z)"),
        {"w": integers(8, 12, dtype="uint8"), **per_axis(8, 100, "uint8")},
    ),
    "behind Transpose and Identity": (
        PRODUCT.format("a = DequantizeLinear<axis = 0>(w, s, z) b = Identity(a) v = Transpose(b)"),
        {"w": integers(12, 8), **per_axis(12, 0, "int8")},
    ),
    "Gemm": (
        "g (float[n,8] x) => (float[n,12] y) { v = DequantizeLinear<axis = 0>(w, s, z) y = Gemm<transB = 1>(x, v, b) }",
        {"w": integers(12, 8), **per_axis(12, 0, "int8"), "b": normal(12)},
    ),
    "constants of the graph": (
        PRODUCT.format("s = Constant<value = float {0.1}>() v = DequantizeLinear(w, s)").replace("{{", "{"),
        {"w": integers(8, 12)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_what_the_runtime_multiplies_by(case: str, tmp_path: Path) -> None:
    text, weights = CASES[case]
    proto = model(text, weights)
    graph = opened(proto, tmp_path)
    (layer,) = linears(graph)
    assert (layer.weight, layer.k, layer.n, layer.dtype) == ("w", 8, 12, str(weights["w"].dtype))
    assert f"its {layer.dtype} integers are pruned, under the scales of the file" in layer.notes
    x = normal(3, 8)
    wanted = x @ graph.weight(layer).numpy().T + weights.get("b", np.float32(0))
    np.testing.assert_allclose(run(proto, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
    assert graph.parameters >= 96


@pytest.mark.parametrize("case", CASES)
def test_pruned_integers_are_the_only_bytes_that_change(case: str, tmp_path: Path) -> None:
    text, weights = CASES[case]
    graph = opened(model(text, weights), tmp_path)
    (layer,) = linears(graph)
    written = onnx.load(rewritten(graph, tmp_path / "out"))
    onnx.checker.check_model(written, full_check=True)
    tensors = {tensor.name: tensor for tensor in written.graph.initializer}
    stored = onnx.numpy_helper.to_array(tensors["w"])
    assert stored.dtype == weights["w"].dtype
    zero = layer.grid.zero if layer.grid is not None else 0
    apart = layer.layout.to_matrix(stored.astype(np.int32) - zero).reshape(-1, 4)
    assert ((apart != 0).sum(1) <= 2).all()
    kept = stored != np.broadcast_to(zero, stored.shape)
    np.testing.assert_array_equal(stored[kept], weights["w"][kept])
    for tensor in graph.proto.graph.initializer:
        if tensor.name != "w":
            assert tensors[tensor.name].SerializeToString() == tensor.SerializeToString()
    del written.graph.initializer[:]
    rest = onnx.ModelProto()
    rest.CopyFrom(graph.proto)
    del rest.graph.initializer[:]
    assert written.SerializeToString() == rest.SerializeToString()


def test_polygraphy_finds_the_pattern_of_the_integers(tmp_path: Path) -> None:
    """Its checker reads initializers of products: the floats that the written integers stand for."""
    graph = opened(model(*CASES["along N, by default"]), tmp_path)
    path = rewritten(graph, tmp_path / "out")
    (layer,) = linears(graph)
    sparse = type(graph)(path)
    plain = model("g (float[n,8] x) => (float[n,12] y) { y = MatMul(x, w) }", {"w": sparse.weight(layer).numpy().T})
    assert polygraphys_verdict(plain) == ({"w"}, {"w"})


def test_a_layer_keeps_minus_128_only_where_the_file_has_it(tmp_path: Path) -> None:
    stored = np.array([[-128, 0, 0, 3]] * 12, np.int8).repeat(2, 1).T
    for place, (weight, lowest) in enumerate([(stored, -128), (np.maximum(stored, -127), -127)]):
        graph = opened(model(DIRECT, {"w": weight, "s": SCALE}), tmp_path / str(place))
        (layer,) = linears(graph)
        assert layer.to_stored(graph.weight(layer) * 2).min() == lowest


def skipped(text: str, weights: Mapping[str, Array], folder: Path, opset: int = 17) -> Skipped:
    row = found(opened(model(text, weights, opset=opset, ir=8 if opset < 21 else 10), folder))[0]
    assert isinstance(row, Skipped), row
    return row


@pytest.mark.parametrize(
    ("body", "weights", "detail"),
    [
        ("v = DequantizeLinear(w, s)", {"w": np.ones((8, 12), np.int32), "s": SCALE}, "int32"),
        (
            "v = DequantizeLinear<axis = 0, block_size = 4>(w, s)",
            {"w": integers(8, 12), "s": np.ones((2, 12), np.float32)},
            "blocks",
        ),
        ("t = Abs(s) v = DequantizeLinear(w, t)", {"w": integers(8, 12), "s": SCALE}, "computed"),
        (
            "t = Identity(z) v = DequantizeLinear(w, s, t)",
            {"w": integers(8, 12), "s": SCALE, "z": np.array(3, np.int8)},
            "computed",
        ),
        (
            "h = DequantizeLinear(w, s) v = Cast<to = 1>(h)",
            {"w": integers(8, 12), "s": SCALE.astype(np.float16)},
            "no float32",
        ),
        ("v = DequantizeLinear(w, s)", {"w": integers(8, 12), "s": -SCALE}, "positive"),
        ("v = DequantizeLinear(w, s)", {"w": integers(8, 12), "s": np.array(np.nan, np.float32)}, "positive"),
        ("t = Transpose(w) v = DequantizeLinear(t, s)", {"w": integers(12, 8), "s": SCALE}, "another operator"),
    ],
)
def test_other_integers_stay_dense(body: str, weights: dict[str, Array], detail: str, tmp_path: Path) -> None:
    row = skipped(PRODUCT.format(body).replace("{{", "{"), weights, tmp_path, opset=21)
    assert (row.reason, row.k, row.n) == (Reason.QUANTISED_WEIGHT, 8, 12)
    assert detail in row.detail


def test_int4_stays_dense(tmp_path: Path) -> None:
    proto = model(DIRECT, {"s": SCALE}, opset=21, ir=10)
    proto.graph.initializer.append(onnx.helper.make_tensor("w", TensorProto.INT4, [8, 12], [1] * 96))
    (row,) = found(opened(proto, tmp_path))
    assert isinstance(row, Skipped)
    assert (row.reason, row.detail) == (Reason.QUANTISED_WEIGHT, "int4")


def test_integers_that_another_node_reads_stay_dense(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,12] y, int8[8,12] u) { v = DequantizeLinear(w, s) y = MatMul(x, v)
        u = Neg(w) }"""
    assert skipped(text, {"w": integers(8, 12), "s": SCALE}, tmp_path).reason is Reason.READ_ELSEWHERE


TWO = """g (float[n,8] x) => (float[n,12] y) {
    v = DequantizeLinear(w, s) u = DequantizeLinear(w, t) a = MatMul(x, v) b = MatMul(x, u) y = Add(a, b) }"""


def test_integers_under_two_scales_stay_dense(tmp_path: Path) -> None:
    row = skipped(TWO, {"w": integers(8, 12), "s": SCALE, "t": 2 * SCALE}, tmp_path)
    assert row.reason is Reason.QUANTISED_WEIGHT
    assert "other scales" in row.detail


def test_integers_under_the_same_scale_are_one_layer(tmp_path: Path) -> None:
    graph = opened(model(TWO, {"w": integers(8, 12), "s": SCALE, "t": SCALE}), tmp_path)
    (layer,) = linears(graph)
    assert isinstance(layer, Linear)
    assert [use.node for use in layer.uses] == ["MatMul:a", "MatMul:b"]
    assert (layer.find_surviving(magnitude(graph, layer)).reshape(-1, 4).sum(1) <= 2).all()


QDQ = "{} v = DequantizeLinear(q, s, z)"
RANGES: dict[str, tuple[str, dict[str, Array], tuple[int, int] | None]] = {
    "per tensor": ("q = QuantizeLinear(w, s, z)", {"s": SCALE, "z": np.array(3, np.int8)}, (-131, 124)),
    "along N": ("q = QuantizeLinear(w, s, z)", per_axis(12, 100, "uint8"), (-100, 155)),
    "behind a Cast": ("c = Cast<to = 1>(w) q = QuantizeLinear(c, s, z)", per_axis(12, 0, "int8"), (-128, 127)),
    "of another order": (
        "t = Transpose(w) u = Transpose(t) q = QuantizeLinear(u, s, z)",
        per_axis(12, 0, "int8"),
        None,
    ),
}


@pytest.mark.parametrize("case", RANGES)
def test_floats_are_clipped_to_what_a_quantizelinear_behind_them_can_hold(case: str, tmp_path: Path) -> None:
    text, grid, ends = RANGES[case]
    weight = 100 * normal(8, 12)
    whole = PRODUCT.format(QDQ.format(text))
    (linear,) = linears(opened(model(whole, {"w": weight, **grid}), tmp_path))
    stored = linear.to_stored(linear.to_matrix(weight))
    assert (linear.rounding is None) == (ends is None)
    if ends is None:
        np.testing.assert_array_equal(stored, weight)
        return
    np.testing.assert_allclose(stored, np.clip(weight, *(end * grid["s"] for end in ends)), rtol=1e-6)
    assert linear.rounding is not None
    np.testing.assert_array_equal(linear.rounding(linear.to_matrix(weight), slice(0, 12)), linear.to_matrix(stored))
    feeds = {"x": normal(3, 8)}
    (before,), (after,) = (run(model(whole, {"w": one, **grid}), feeds) for one in (weight, stored))
    np.testing.assert_array_equal(before, after)  # which is what the runtime clips, too
