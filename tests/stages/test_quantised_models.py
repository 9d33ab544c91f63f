"""Models that come with Q/DQ: pruned on their integers, under their own scales, in the whole pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from prox24_export import Settings, export, inspect
from prox24_export.bench import bench
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear
from prox24_export.results.mask import unpack_thumbnail
from prox24_export.stages.prune import draw_masks
from tests.graphs import model, normal, run, save
from tests.latency import time_onnxruntime

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
    weights: dict[str, Array] = {"w0": w0, "s0": s0, "z0": z0, "w1": normal(32, 32, seed=1) / 4, "w2": w2, "s2": s2}
    others: dict[str, Array] = {"sx": np.array(0.03, np.float32), "zx": np.array(0, np.int8), "bias": normal(8)}
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
            steps -= (
                zero.reshape([-1 if place == axis else 1 for place in range(steps.ndim)]) if zero.size > 1 else zero
            )
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
    """Squared difference of outputs relative to those of the first model."""
    pairs = [(run(one, feed)[0], run(other, feed)[0]) for feed in feeds]
    dense, sparse = (np.concatenate([pair[place] for pair in pairs]) for place in (0, 1))
    return float(np.square(dense - sparse).sum() / np.square(dense).sum())


def measure_divergence(one: Path, other: Path, feeds: list[dict[str, Array]]) -> float:
    """Kullback–Leibler divergence of the classes, which is what outputs of this kind are tuned for."""
    logits = (torch.from_numpy(np.concatenate([run(path, feed)[0] for feed in feeds])) for path in (one, other))
    dense, sparse = (output.double().log_softmax(-1) for output in logits)
    return float((dense.exp() * (dense - sparse)).sum(-1).mean())


@pytest.mark.parametrize("first", ["int8", "uint8"])
@pytest.mark.parametrize("method", ["prox", "magnitude", "sparsegpt"])
def test_integers_are_pruned_where_they_are_stored(first: str, method: Any, tmp_path: Path) -> None:
    path = save(mixed(first), tmp_path)
    settings = Settings(method=method, refine="no", permute="no")
    report = export(path, samples(), tmp_path / "out", settings=settings)
    assert [layer.state for layer in report.layers] == ["sparse"] * 3
    assert expect_two_four(tmp_path / "out" / "model.onnx", path) == ["w0", "w2"]
    apart = noise(path, tmp_path / "out" / "model.onnx", samples(20, seed=5))
    assert 0 < apart < 0.6
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


@pytest.mark.parametrize("mode", ["model", "segments"])
@pytest.mark.parametrize("which", ["weights", "all"])
def test_floats_are_tuned_around_integers_that_stay(
    mode: Any, which: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.passes.refine.improvement.LEAST_SHARE", 0.0)  # one float layer wins little
    path, held = save(mixed("uint8"), tmp_path), samples(200, seed=5)
    settings = Settings(permute="no", refine=which, refine_mode=mode)
    report = export(path, samples(800), tmp_path / "tuned", settings=settings)
    assert report.refinement is not None
    assert report.refinement.kept, report.refinement.reason
    assert "; 2 layers stored as integers stay as solved" in report.refinement.reason
    tuned, before = stored(tmp_path / "tuned" / "model.onnx"), stored(path)
    for name in ("s0", "z0", "s2", "zx"):
        assert tuned[name].tobytes() == before[name].tobytes()
    for steps in (tuned["w0"].astype(np.int64).T - 128, tuned["w2"].astype(np.int64), tuned["w1"].T):
        assert np.count_nonzero(steps.reshape(-1, 4), axis=1).max() == 2
    if mode == "model":  # segment by segment, one float layer among three wins too little to be seen elsewhere
        export(path, samples(800), tmp_path / "layers", settings=LAYERWISE)
        apart, other = (measure_divergence(path, tmp_path / name / "model.onnx", held) for name in ("tuned", "layers"))
        assert apart < other


def test_the_refinement_begins_with_the_integers_that_are_written(tmp_path: Path) -> None:
    """All but the integers is 2:4 already, so that the objective would be 0 with those of the dense model."""
    proto = mixed()
    w1 = next(tensor for tensor in proto.graph.initializer if tensor.name == "w1")
    sparse = numpy_helper.to_array(w1) * np.tile([[0], [1], [1], [0]], (8, 1)).astype(np.float32)
    w1.CopyFrom(numpy_helper.from_array(sparse, "w1"))
    path = save(proto, tmp_path)
    measured = refined_start(path, tmp_path / "pruned")
    assert measured > 0.01
    assert refined_start(tmp_path / "pruned" / "model.onnx", tmp_path / "again") < 1e-9


def refined_start(path: Path, out: Path) -> float:
    settings = Settings(permute="no", refine="weights", refine_mode="model")
    report = export(path, samples(200), out, settings=settings)
    assert report.refinement is not None
    assert report.refinement.before is not None
    return report.refinement.before


def test_nothing_is_refined_where_all_is_stored_as_integers(tmp_path: Path) -> None:
    settings = Settings(permute="no", refine="weights", exclude=("w1",))
    report = export(save(mixed(), tmp_path), samples(), tmp_path / "out", settings=settings)
    assert report.refinement is not None
    assert not report.refinement.kept
    assert report.refinement.reason == (
        "its pruned weights are stored as integers, which stay as their layers were solved"
    )


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


def test_inspect_and_bench_know_the_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_onnxruntime(monkeypatch)
    path = save(mixed(), tmp_path)
    rows = inspect(path)
    assert all(isinstance(row, Linear) for row in rows)
    assert [(row.weight, row.k, row.n) for row in rows] == [("w0", 16, 32), ("w1", 32, 32), ("w2", 32, 8)]
    assert isinstance(rows[0], Linear)
    assert "its int8 integers are pruned, under the scales of the file" in rows[0].notes
    export(path, samples(), tmp_path / "out", settings=LAYERWISE)
    sparse = tmp_path / "out" / "model.onnx"
    told = bench(path, sparse, tmp_path / "bench", batches=[1], settings=Settings(engine="onnxruntime"))
    assert [(row.weight, row.state) for row in told.layers] == [("w0", "sparse"), ("w1", "sparse"), ("w2", "sparse")]
    swapped = bench(sparse, path, tmp_path / "swapped", batches=[1], settings=Settings(engine="onnxruntime"))
    assert [row.state for row in swapped.layers] == ["dense"] * 3


class Feeds(CalibrationDataReader):  # type: ignore[misc] # the library has no types
    """Samples for `quantize_static`."""

    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        """Takes the samples."""
        self._feeds = iter(feeds)

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
    types = {"activation_type": kind, "weight_type": kind}
    quantize_static(source, path, Feeds(images[:40]), QuantFormat.QDQ, per_channel=per_channel, **types)
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
    path = save(mixed("uint8"), tmp_path)
    export(path, samples(), tmp_path / "out", settings=LAYERWISE)
    graph = OnnxGraph(tmp_path / "out" / "model.onnx")
    linears = FindLinears().call(graph=graph).linears
    masks = draw_masks(linears, {layer.weight: graph.stored(layer.weight) for layer in linears})
    for layer in linears:
        shown = unpack_thumbnail(masks[layer.name])
        corner = graph.weight(layer).numpy()[: len(shown), : shown.shape[1]]
        np.testing.assert_array_equal(shown, corner != 0)


def test_floats_behind_quantizelinear_stay_in_its_range_and_the_error_counts_that(tmp_path: Path) -> None:
    text = """g (float[N,16] x) => (float[N,32] y) {
        q = QuantizeLinear<axis = 1>(w, s, z) d = DequantizeLinear<axis = 1>(q, s, z) y = MatMul(x, d) }"""
    weight = normal(16, 32) / 4
    _, scale, zero = quantise(weight, 1)
    path = save(model(text, {"w": weight, "s": scale, "z": zero}), tmp_path)
    report = export(path, samples(), tmp_path / "out", settings=LAYERWISE)
    pruned, top = stored(tmp_path / "out" / "model.onnx")["w"], 127 * scale
    assert (pruned <= np.nextafter(top, np.float32(1))).all()
    assert (pruned >= -128 * scale).all()
    assert np.isclose(pruned, top).any()  # solved weights grow, and these would have grown beyond
    (layer,) = report.layers
    x = np.concatenate([sample["x"] for sample in samples()])
    wanted, lost = x @ weight, x @ (pruned - weight)
    assert layer.relative_error == pytest.approx(np.square(lost).sum() / np.square(wanted).sum(), rel=0.25)
