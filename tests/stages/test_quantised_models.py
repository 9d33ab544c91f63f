"""Models that come with Q/DQ: pruned on their integers, under their own scales, in the whole pipeline."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from prox24_export import Settings, export, inspect
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.results.mask import unpack_thumbnail
from prox24_export.results.report import Report
from tests.command import command
from tests.graphs import model, normal, run, save

LAYERWISE = Settings(refine="no", permute="no")

DEEP = """g (float[N,16] x) => (float[N,8] y) {
    qx = QuantizeLinear(x, sx, zx) dx = DequantizeLinear(qx, sx, zx)
    d0 = DequantizeLinear<axis = 1>(w0, s0, z0) a = MatMul(dx, d0) r = Relu(a)
    b = MatMul(r, w1) t = Tanh(b)
    d2 = DequantizeLinear<axis = 0>(w2, s2) y = Gemm<transB = 1>(t, d2, bias) }"""


def quantise(weight: Array, axis: int | None, dtype: str = "int8") -> tuple[Array, Array, Array]:
    """Integers, scales and zero points of a weight, by this file's own few lines."""
    rest = tuple(place for place in range(weight.ndim) if place != axis) if axis is not None else None
    bounds = np.iinfo(dtype)
    top = np.abs(weight).max(axis=rest, keepdims=True)
    scale = (top / 127).astype(np.float32)
    zero = 0 if dtype == "int8" else 128
    integers = np.clip(np.rint(weight / scale) + zero, bounds.min, bounds.max).astype(dtype)
    return integers, np.squeeze(scale), np.full(np.squeeze(scale).shape, zero, dtype)


def mixed(first: str = "int8") -> onnx.ModelProto:
    """A uint8 or int8 MatMul per output channel, a float MatMul, and an int8 Gemm per output channel."""
    w0, s0, z0 = quantise(normal(16, 32) / 4, 1, first)
    w2, s2, _ = quantise(normal(8, 32, seed=2) / 4, 0)
    weights = {"w0": w0, "s0": s0, "z0": z0, "w1": normal(32, 32, seed=1) / 4, "w2": w2, "s2": s2}
    others = {"sx": np.array(0.03, np.float32), "zx": np.array(0, np.int8), "bias": normal(8)}
    return model(DEEP, weights | others)


def samples(count: int = 60, seed: int = 0) -> list[dict[str, Array]]:
    x = normal(count, 16, seed=seed) @ normal(16, 16, seed=9) / 4
    return [{"x": row[None]} for row in x]


def stored(path: Path) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def expect_two_four(path: Path, dense: Path) -> list[str]:
    """Checks every dequantised constant matrix of a file along K, and what else is stored, byte by byte.

    Returns:
        Names of the integer weights.
    """
    proto, tensors, before = onnx.load(path), stored(path), stored(dense)
    makers = {node.output[0]: node for node in proto.graph.node}
    names = []
    for node in proto.graph.node:
        if node.op_type not in {"MatMul", "Gemm", "Conv"}:
            continue
        behind = makers.get(node.input[1])
        if behind is None or behind.op_type != "DequantizeLinear" or behind.input[0] not in tensors:
            continue
        name = behind.input[0]
        axis = next((attribute.i for attribute in behind.attribute if attribute.name == "axis"), 1)
        steps = tensors[name].astype(np.int64)
        if len(behind.input) > 2:
            zero = tensors[behind.input[2]].astype(np.int64)
            steps -= zero.reshape([-1 if place == axis else 1 for place in range(steps.ndim)]) if zero.size > 1 else zero
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type == "Conv":
            steps = np.moveaxis(steps, 1, -1)
        elif not transposed:
            steps = steps.T
        groups = np.count_nonzero(steps.reshape(-1, 4), axis=1)
        assert groups.max() == 2
        assert tensors[name].dtype == before[name].dtype
        names.append(name)
    unchanged = tensors.keys() - names - {"w1"}
    assert unchanged
    for name in unchanged:
        assert tensors[name].tobytes() == before[name].tobytes()
    onnx.checker.check_model(proto, full_check=True)
    return names


def noise(one: Path, other: Path, feeds: list[dict[str, Array]]) -> float:
    pairs = [(run(one, feed)[0], run(other, feed)[0]) for feed in feeds]
    dense, sparse = (np.concatenate([pair[place] for pair in pairs]) for place in (0, 1))
    return float(np.square(dense - sparse).sum() / np.square(dense).sum())


@pytest.mark.parametrize("first", ["int8", "uint8"])
@pytest.mark.parametrize("method", ["prox", "magnitude", "sparsegpt"])
def test_integers_are_pruned_where_they_are_stored(first: str, method: Any, tmp_path: Path) -> None:
    path = save(mixed(first), tmp_path)
    settings = Settings(method=method, refine="no", permute="no")
    report = export(path, samples(), tmp_path / "out", settings=settings)
    assert [layer.state for layer in report.layers] == ["sparse"] * 3
    assert expect_two_four(tmp_path / "out" / "model.onnx", path) == ["w0", "w2"]
    apart = noise(path, tmp_path / "out" / "model.onnx", samples(20, seed=5))
    assert 0 < apart < 0.4
    if method == "prox":
        export(path, samples(), tmp_path / "magnitude", settings=Settings(method="magnitude"))
        assert apart < noise(path, tmp_path / "magnitude" / "model.onnx", samples(20, seed=5))


def test_the_error_in_the_report_is_that_of_the_integers(tmp_path: Path) -> None:
    text = "g (float[N,16] x) => (float[N,8] y) { v = DequantizeLinear(w, s, z) y = MatMul(x, v) }"
    weight = quantise(normal(16, 8), None, "uint8")[0] // 16  # so coarse that rounding is seen
    path = save(model(text, {"w": weight, "s": np.array(0.2, np.float32), "z": np.array(8, np.uint8)}), tmp_path)
    x = normal(200, 16) @ normal(16, 16, seed=1)
    report = export(path, [{"x": x}], tmp_path / "out", evaluation=[{"x": x}], settings=LAYERWISE)
    dense, sparse = (run(file, {"x": x})[0].astype(np.float64) for file in (path, tmp_path / "out" / "model.onnx"))
    lost = np.square(dense - sparse).sum() / np.square(dense).sum()
    assert report.layers[0].relative_error == pytest.approx(lost, rel=1e-3)


def test_the_report_draws_the_masks_of_the_integers(tmp_path: Path) -> None:
    path = save(mixed("uint8"), tmp_path)
    report = export(path, samples(), tmp_path / "out", settings=LAYERWISE)
    graph = OnnxGraph(tmp_path / "out" / "model.onnx")
    tensors = stored(tmp_path / "out" / "model.onnx")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "w0" in page
    assert graph.parameters == sum(tensors[name].size for name in ("w0", "w1", "w2", "s0", "s2", "sx", "bias"))
    shares = [layer.share for layer in report.layers]
    assert shares == pytest.approx([tensors[name].size / graph.parameters for name in ("w0", "w1", "w2")])


def refine(path: Path, out: Path, **settings: Any) -> Report:
    return export(path, samples(200), out, settings=Settings(permute="no", refine="weights", **settings))


@pytest.mark.parametrize("mode", ["model", "segments"])
@pytest.mark.parametrize("which", ["weights", "all"])
def test_floats_are_tuned_around_integers_that_stay(mode: Any, which: Any, tmp_path: Path) -> None:
    path = save(mixed("uint8"), tmp_path)
    tuned = export(
        path, samples(200), tmp_path / "tuned", settings=Settings(permute="no", refine=which, refine_mode=mode)
    )
    assert tuned.refinement is not None
    assert tuned.refinement.kept, tuned.refinement.reason
    assert "2 layers stored as integers stay as they were solved" in tuned.refinement.reason
    tensors, before = stored(tmp_path / "tuned" / "model.onnx"), stored(path)
    for name in ("s0", "z0", "s2", "zx"):
        assert tensors[name].tobytes() == before[name].tobytes()
    assert expect_integers(tensors, before)
    apart = noise(path, tmp_path / "tuned" / "model.onnx", samples(40, seed=5))
    export(path, samples(200), tmp_path / "layers", settings=LAYERWISE)
    assert apart < noise(path, tmp_path / "layers" / "model.onnx", samples(40, seed=5))


def expect_integers(tensors: dict[str, Array], before: dict[str, Array]) -> bool:
    steps = tensors["w0"].astype(np.int64).T - 128, tensors["w2"].astype(np.int64)
    for matrix in steps:
        assert np.count_nonzero(matrix.reshape(-1, 4), axis=1).max() == 2
    return not np.array_equal(tensors["w1"], before["w1"])


def test_the_refinement_is_told_what_the_integers_are(tmp_path: Path) -> None:
    """The objective at the start is that of the pruned integers: with dense ones it would be smaller."""
    path = save(mixed(), tmp_path)
    report = refine(path, tmp_path / "out", exclude=("w1",))
    assert report.refinement is not None
    assert not report.refinement.kept
    assert "stored as integers, which stay as their layers were solved" in report.refinement.reason


def test_channels_that_integers_read_keep_their_order(tmp_path: Path) -> None:
    text = """g (float[N,16] x) => (float[N,32] y, float[N,32] z) {
        a = MatMul(x, w0) r = Relu(a) d1 = DequantizeLinear(w1, s1) y = MatMul(r, d1) z = MatMul(r, w2) }"""
    integers, scale, _ = quantise(normal(32, 32), 1)
    weights = {"w0": normal(16, 32) / 4, "w1": integers, "s1": scale, "w2": normal(32, 32, seed=2) / 4}
    path = save(model(text, weights), tmp_path)
    report = export(path, samples(), tmp_path / "out", settings=Settings(permute="all", refine="no"))
    assert report.permutation is not None
    reasons = {space.name: (space.state, space.reason) for space in report.permutation.spaces}
    assert reasons["MatMul:z"] == ("fixed", "it meets w1, which holds integers")
    assert noise(path, tmp_path / "out" / "model.onnx", samples(20, seed=5)) < 0.4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_copies_the_file_and_checks_it(precision: Any, tmp_path: Path) -> None:
    path = save(mixed("uint8"), tmp_path)
    out = tmp_path / "out"
    settings = Settings(refine="no", permute="no", precision=precision)
    report = export(path, samples(), out, settings=settings)
    assert report.engine is not None
    assert (out / "engines" / f"sparse.{precision}.onnx").read_bytes() == (out / "model.onnx").read_bytes()
    assert not report.faults


def test_inspect_and_bench_know_the_layers(tmp_path: Path) -> None:
    path = save(mixed(), tmp_path)
    rows = inspect(path)
    assert [(row.weight, row.k, row.n, row.state) for row in rows] == [
        ("w0", 16, 32, "sparse"),
        ("w1", 32, 32, "sparse"),
        ("w2", 32, 8, "sparse"),
    ]
    assert "its int8 integers are pruned, under the scales of the file" in rows[0].notes
    export(path, samples(), tmp_path / "out", settings=LAYERWISE)
    sparse = tmp_path / "out" / "model.onnx"
    command("bench", path, sparse, "--out", tmp_path / "bench", "--engine", "onnxruntime", "--batch", "1")
    told = json.loads((tmp_path / "bench" / "report.json").read_text(encoding="utf-8"))
    assert [(row["weight"], row["state"]) for row in told["layers"]] == [
        ("w0", "sparse"),
        ("w1", "sparse"),
        ("w2", "sparse"),
    ]


class Feeds(CalibrationDataReader):  # type: ignore[misc] # the library has no types
    """Samples for `quantize_static`."""

    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        """Takes the samples."""
        self._feeds: Iterator[dict[str, Array]] = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        """The next sample."""
        return next(self._feeds, None)


IMAGES = """g (float[N,8,6,6] x) => (float[N,12] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w0, b0) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p)
    m = MatMul(f, w1) t = Relu(m) y = Gemm<transB = 1>(t, w2, b2) }"""


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_model_that_onnxruntime_quantised(kind: QuantType, per_channel: bool, tmp_path: Path) -> None:
    weights = {"w0": normal(16, 8, 3, 3) / 8, "b0": normal(16), "w1": normal(16, 24) / 4, "w2": normal(12, 24) / 4}
    source = save(model(IMAGES, weights | {"b2": normal(12)}), tmp_path, "float.onnx")
    images = [{"x": normal(1, 8, 6, 6, seed=seed)} for seed in range(80)]
    path = tmp_path / "quantised.onnx"
    quantize_static(
        source, path, Feeds(images[:40]), QuantFormat.QDQ, per_channel=per_channel, weight_type=kind
    )
    report = export(path, images, tmp_path / "out", settings=LAYERWISE)
    assert [(layer.op, layer.state) for layer in report.layers] == [
        ("Conv", "sparse"),
        ("MatMul", "sparse"),
        ("Gemm", "sparse"),
    ]
    written = tmp_path / "out" / "model.onnx"
    assert len(expect_two_four(written, path)) == 3
    held = [{"x": normal(1, 8, 6, 6, seed=seed)} for seed in range(100, 120)]
    assert noise(path, written, held) < 0.2
    assert noise(source, written, held) < 0.2


def test_thumbnails_show_what_is_stored(tmp_path: Path) -> None:
    from prox24_export.passes.find_linears import FindLinears  # noqa: PLC0415
    from prox24_export.stages.prune import draw_masks  # noqa: PLC0415

    path = save(mixed("uint8"), tmp_path)
    export(path, samples(), tmp_path / "out", settings=LAYERWISE)
    graph = OnnxGraph(tmp_path / "out" / "model.onnx")
    linears = FindLinears().call(graph=graph).linears
    masks = draw_masks(linears, {layer.weight: graph.stored(layer.weight) for layer in linears})
    for layer in linears:
        shown = unpack_thumbnail(masks[layer.name])
        corner = graph.weight(layer).numpy()[: len(shown), : shown.shape[1]]
        np.testing.assert_array_equal(shown, corner != 0)
