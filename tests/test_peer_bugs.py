"""What published pruners get wrong, one test each: none of it may happen here.

Every test runs the whole tool on a model of a few hundred parameters and looks at the file it wrote.
"""

import cProfile
import pstats
import tracemalloc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from prox24_export import Settings, export
from prox24_export.passes.calibrate.moments import Moments
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.rewrite_weights import EXTERNAL_DATA, RewriteWeights
from prox24_export.passes.front_onnx.tensors import find_model_tensors
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.verify_pattern import VerifyPattern
from prox24_export.progress import Steps
from prox24_export.results.report import Report
from tests.graphs import BF16, is_two_four, linears, model, normal, opened, pruned, run, save

WIDTH = 16


def correlated(tokens: int, k: int = WIDTH, seed: int = 0) -> Array:
    """Activations whose channels differ in size and depend on each other, as real ones do."""
    mixing = normal(k, k, seed=seed + 1) * np.logspace(-1, 1, k, dtype=np.float32)
    mixed: Array = normal(tokens, k, seed=seed) @ mixing
    return mixed


def exported(
    proto: onnx.ModelProto | Path, folder: Path, feeds: list[dict[str, Array]], settings: Settings | None = None
) -> tuple[OnnxGraph, Report]:
    """The written model and its report."""
    path = proto if isinstance(proto, Path) else save(proto, folder)
    report = export(path, feeds, folder / "out", evaluation=feeds, settings=settings)
    return OnnxGraph(folder / "out" / "model.onnx"), report


def one_layer(k: int = WIDTH, n: int = 12) -> onnx.ModelProto:
    return model(f"g (float[n,{k}] x) => (float[n,{n}] y) {{ y = MatMul(x, w) }}", {"w": normal(k, n, seed=5)})


def chain(count: int, size: int) -> onnx.ModelProto:
    """`count` layers one behind the other, each of `size` × `size` weights."""
    body = " ".join(f"h{index + 1} = MatMul(h{index}, w{index})" for index in range(count))
    text = f"g (float[n,{size}] x) => (float[n,{size}] y) {{ h0 = Identity(x) {body} y = Relu(h{count}) }}"
    return model(text, {f"w{index}": normal(size, size, seed=index) / size for index in range(count)})


def reasons(report: Report) -> dict[str, str]:
    """By layer: why it stayed dense; empty where it did not."""
    return {layer.name: layer.reason if layer.state == "dense" else "" for layer in report.layers}


def lost(dense: Array, sparse: Array, x: Array) -> float:
    """Squared error of a layer's output, [K, N] weights."""
    return float(np.square(x.astype(np.float64) @ (dense - sparse).astype(np.float64)).sum())


def by_magnitude(weight: Array) -> Array:
    """Magnitude mask along the first axis of [K, N], without help from the package."""
    groups = np.abs(weight).reshape(-1, 4, weight.shape[1])
    order = np.argsort(-groups, axis=1, kind="stable")
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, order[:, :2], values=True, axis=1)
    return np.where(mask.reshape(weight.shape), weight, np.float32(0))


# --- ModelOpt 0.47 -----------------------------------------------------------------------------------------------


def test_modelopt_throws_sparsegpt_s_weight_update_away(tmp_path: Path) -> None:
    x = correlated(256)
    dense = normal(WIDTH, 12, seed=5)
    for settings in (Settings(method="sparsegpt"), Settings(method="prox")):
        graph, _ = exported(one_layer(), tmp_path / settings.method, [{"x": x}], settings)
        sparse = graph.stored("w")
        kept = sparse != 0
        assert not np.allclose(sparse[kept], dense[kept], rtol=1e-3), "survivors were not updated"
        assert lost(dense, sparse, x) < 0.9 * lost(dense, np.where(kept, dense, 0), x)


def test_modelopt_zeroes_layers_calibration_never_calls(tmp_path: Path) -> None:
    text = """g (float[n,16] x) => (float[n,8] y) {
        a = MatMul(x, used) none = Sub(x, x) [never] b = MatMul(none, spare) [dead] c = MatMul(x, gone)
        y = Add(a, b) }"""
    weights = {name: normal(16, 8, seed=place) for place, name in enumerate(("used", "spare", "gone"))}
    graph, report = exported(model(text, weights), tmp_path, [{"x": correlated(64)}])
    for name in ("spare", "gone"):
        assert graph.stored(name).tobytes() == weights[name].tobytes()
    assert is_two_four(graph.stored("used").T)
    assert reasons(report) == {
        "MatMul:a": "",
        "never": "not reached by calibration: nothing is known of its input (its input was always zero)",
        "dead": "not reached by calibration: nothing is known of its input (its result reaches no graph output)",
    }


def test_modelopt_prunes_convolutions_along_flattened_input_channels_and_kernel(tmp_path: Path) -> None:
    proto = model("g (float[n,8,6,6] x) => (float[n,4,4,4] y) { y = Conv(x, w) }", {"w": normal(4, 8, 3, 3)})
    graph, _ = exported(proto, tmp_path, [{"x": normal(8, 8, 6, 6)}])
    stored = graph.stored("w")
    assert is_two_four(np.moveaxis(stored, 1, -1)), "every four input channels at each kernel position"
    assert not is_two_four(stored.reshape(4, -1))


class Counting:
    """Progress that counts, at every step, the Gram matrices that are alive."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[weakref.ref[Moments]] = []
        self.most = 0
        plain = Moments.__init__

        def noted(moments: Moments, *arguments: Any) -> None:
            plain(moments, *arguments)
            self.made.append(weakref.ref(moments))

        patch.setattr(Moments, "__init__", noted)

    @contextmanager
    def stage(self, title: str, total: float, work: Mapping[str, float] | None = None) -> Iterator[Steps]:  # noqa: ARG002
        """See `prox24_export.progress.Progress`."""
        assert title
        assert total
        yield Steps(self.count)

    def count(self, _kind: str, _cost: float) -> None:
        self.most = max(self.most, sum(made() is not None for made in self.made))


def test_modelopt_holds_all_gram_matrices_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = []
    for count in (4, 12):
        path, progress, feeds = (
            save(chain(count, 8), tmp_path / str(count)),
            Counting(monkeypatch),
            [{"x": normal(8, 8)}],
        )
        export(path, feeds, tmp_path / str(count) / "out", evaluation=feeds, progress=progress)
        most.append(progress.most)
    assert 0 < most[0] == most[1], "what is held does not grow with depth"


def test_modelopt_unties_shared_weights(tmp_path: Path) -> None:
    text = "g (float[n,16] x) => (float[n,16] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
    graph, report = exported(model(text, {"w": normal(16, 16)}), tmp_path, [{"x": normal(64, 16)}])
    assert [tensor.name for tensor in graph.proto.graph.initializer] == ["w"]
    assert [node.input[1] for node in graph.proto.graph.node if node.op_type == "MatMul"] == ["w", "w"]
    assert reasons(report) == {"MatMul:a": ""}
    assert is_two_four(graph.stored("w").T)


# --- onnxsim 0.8.1 -----------------------------------------------------------------------------------------------


def test_onnxsim_wanda_on_rank_3_activations_silently_becomes_magnitude(tmp_path: Path) -> None:
    dense, x = normal(WIDTH, 12, seed=5), correlated(96).reshape(4, 24, WIDTH)
    proto = model(f"g (float[n,t,{WIDTH}] x) => (float[n,t,12] y) {{ y = MatMul(x, w) }}", {"w": dense})
    graph, _ = exported(proto, tmp_path, [{"x": x}], Settings(method="wanda"))
    norms = np.sqrt(np.square(x.reshape(-1, WIDTH)).sum(0))[:, None]
    expected = np.where(by_magnitude(dense * norms) != 0, dense, np.float32(0))
    assert np.array_equal(graph.stored("w"), expected)
    assert not np.array_equal(expected, by_magnitude(dense)), "the sample shows nothing"


def test_onnxsim_prunes_convolutions_along_the_wrong_axis(tmp_path: Path) -> None:
    proto = model("g (float[n,8,6] x) => (float[n,8,4] y) { y = Conv(x, w) }", {"w": normal(8, 8, 3)})
    graph, _ = exported(proto, tmp_path, [{"x": normal(8, 8, 6)}], Settings(method="magnitude"))
    expected = by_magnitude(normal(8, 8, 3).transpose(1, 0, 2).reshape(8, -1)).reshape(8, 8, 3).transpose(1, 0, 2)
    assert np.array_equal(graph.stored("w"), expected)


def external(folder: Path, count: int, size: int) -> Path:
    folder.mkdir(parents=True)
    onnx.save(
        chain(count, size), folder / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0
    )
    return folder / "big.onnx"


def test_onnxsim_fails_on_external_data(tmp_path: Path) -> None:
    path = external(tmp_path / "in", 2, 32)
    graph, report = exported(path, tmp_path, [{"x": normal(64, 32)}])
    assert set(reasons(report).values()) == {""}
    assert (tmp_path / "out" / EXTERNAL_DATA).is_file()
    assert all(is_two_four(graph.stored(name).T) for name in ("w0", "w1"))
    assert run(graph.path, {"x": normal(3, 32)})[0].shape == (3, 32)


def test_onnxsim_fails_above_two_gibibytes(tmp_path: Path) -> None:
    # the limit is protobuf's; the way past it is the same at any size
    assert RewriteWeights().external_above < 2**31
    graph = opened(one_layer(k=32), tmp_path)
    (tmp_path / "out").mkdir()
    path = RewriteWeights(external_above=1000).call(graph=graph, weights=pruned(graph), folder=tmp_path / "out").path
    assert path.stat().st_size < 1000 < (tmp_path / "out" / EXTERNAL_DATA).stat().st_size
    assert is_two_four(OnnxGraph(path).stored("w").T)


def test_onnxsim_s_memory_peaks_at_nine_times_the_weights(tmp_path: Path) -> None:
    graph = OnnxGraph(external(tmp_path / "in", 8, 256))
    weights = pruned(graph, linears(graph)[:1])
    one = 256 * 256 * 4
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    path = RewriteWeights().call(graph=graph, weights=weights, folder=tmp_path / "out").path
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * one, "writing holds one tensor, not all eight"
    assert is_two_four(OnnxGraph(path).stored("w0").T)


def test_onnxsim_leaves_the_dense_weight_in_the_file(tmp_path: Path) -> None:
    proto = one_layer()
    exported(proto, tmp_path, [{"x": correlated(64)}])
    dense = numpy_helper.to_array(proto.graph.initializer[0])
    assert dense.tobytes() in (tmp_path / "dense.onnx").read_bytes()
    written = (tmp_path / "out" / "model.onnx").read_bytes()
    assert not any(row.tobytes() in written for row in dense)


def test_onnxsim_breaks_the_pattern_of_a_weight_shared_by_gemm_and_matmul(tmp_path: Path) -> None:
    text = "g (float[n,16] x) => (float[n,16] y) {{ a = Gemm<transB = 1>(x, w) b = Relu(a) {use} }}"
    feeds = [{"x": normal(64, 16)}]
    one_axis = model(text.format(use="t = Transpose(w) y = MatMul(b, t)"), {"w": normal(16, 16)})
    graph, report = exported(one_axis, tmp_path / "one", feeds)
    assert reasons(report) == {"Gemm:a": ""}
    assert [check.violations for check in VerifyPattern().call(graph=graph, linears=linears(graph)).uses] == [0, 0]
    two_axes = model(text.format(use="y = MatMul(b, w)"), {"w": normal(16, 16)})
    graph, report = exported(two_axes, tmp_path / "two", feeds)
    why = "the weight is used along two different axes: no 2:4 pattern fits both (nodes Gemm:a, MatMul:y)"
    assert reasons(report) == {"Gemm:a": why, "MatMul:y": why}
    assert np.array_equal(graph.stored("w"), normal(16, 16))


def test_onnxsim_skips_qdq_transposed_and_constant_node_weights_without_a_word(tmp_path: Path) -> None:
    text = """g (float[n,16] x) => (float[n,16] y) {
        q = QuantizeLinear(u, s, z) d = DequantizeLinear(q, s, z) a = MatMul(x, d)
        t = Transpose(v) b = MatMul(a, t) y = MatMul(b, w) }"""
    proto = model(text, {"u": normal(16, 16), "v": normal(16, 16, seed=1)})
    scale: dict[str, Array] = {"s": np.array(0.03, np.float32), "z": np.array(0, np.int8)}
    for name, array in scale.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    stored = numpy_helper.from_array(normal(16, 16, seed=2), "w")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=stored))
    graph, report = exported(proto, tmp_path, [{"x": normal(64, 16)}])
    assert reasons(report) == {"MatMul:a": "", "MatMul:b": "", "MatMul:y": ""}
    assert is_two_four(graph.stored("u").T)
    assert is_two_four(graph.stored("v"))
    assert is_two_four(graph.stored("w").T)


def test_onnxsim_prunes_a_reduction_dimension_that_is_not_a_multiple_of_four(tmp_path: Path) -> None:
    graph, report = exported(one_layer(k=18), tmp_path, [{"x": normal(64, 18)}])
    assert reasons(report) == {"MatMul:y": "the reduction dimension is not a multiple of 4 (K = 18)"}
    assert graph.stored("w").tobytes() == normal(18, 12, seed=5).tobytes()


# --- Polygraphy 0.53.6 `surgeon prune` -----------------------------------------------------------------------------


def test_polygraphy_drops_opset_imports_metadata_and_functions(tmp_path: Path) -> None:
    text = "g (float[n,16] x) => (float[n,12] y) { a = local.Twice(x) b = com.microsoft.Gelu(a) y = MatMul(b, w) }"
    proto = model(text, {"w": normal(16, 12)}, more=', "local" : 1, "com.microsoft" : 1')
    body = '<domain: "local", opset_import: ["" : 17]> Twice (a) => (r) { r = Add(a, a) }'
    proto.functions.append(onnx.parser.parse_function(body))
    helper.set_model_props(proto, {"classes": "cat,dog"})
    graph, _ = exported(proto, tmp_path, [{"x": correlated(64)}])
    written = graph.proto
    assert is_two_four(graph.stored("w").T)
    for _, tensor in (*find_model_tensors(written), *find_model_tensors(proto)):
        tensor.ClearField("raw_data")
    assert written == proto


def test_polygraphy_zeroes_fixed_positions_of_bfloat16_groups(tmp_path: Path) -> None:
    dense = normal(16, 24).astype(BF16)
    text = "g (bfloat16[n,16] x) => (bfloat16[n,24] y) { y = MatMul(x, w) }"
    proto = model(text, {"w": dense}, opset=22, ir=10)
    graph, report = exported(proto, tmp_path, [{"x": normal(32, 16)}], Settings(method="magnitude"))
    stored = graph.stored("w")
    assert stored.dtype == BF16
    assert np.array_equal(stored.astype(np.float32), by_magnitude(dense.astype(np.float32)))
    assert any("float32 copy" in warning for warning in report.warnings)


def test_polygraphy_takes_the_wrong_axis_of_matmul_weights_of_rank_3(tmp_path: Path) -> None:
    text = "g (float[n,t,16] x) => (float[n,t,12] y) { a = MatMul(x, one) [batched] y = MatMul(a, two) }"
    weights = {"one": normal(1, 16, 8), "two": normal(2, 8, 12)}
    graph, report = exported(model(text, weights), tmp_path, [{"x": normal(2, 5, 16)}])
    assert is_two_four(graph.stored("one")[0].T)
    assert not is_two_four(graph.stored("one")[0])
    assert np.array_equal(graph.stored("two"), weights["two"])
    assert reasons(report)["batched"] == (
        "the weight is batched (more than two dimensions), and not by expert (shape [2, 8, 12])"
    )


def test_polygraphy_prunes_a_third_of_a_million_weights_a_second(tmp_path: Path) -> None:
    # it visits every entry in Python; the calls made here do not grow with the weight
    calls = []
    for size in (16, 256):
        graph = opened(one_layer(k=size, n=size), tmp_path / str(size))
        (linear,) = linears(graph)
        out = tmp_path / str(size) / "out"
        out.mkdir()
        profile = cProfile.Profile()
        with profile:
            path = RewriteWeights().call(graph=graph, weights=pruned(graph, [linear]), folder=out).path
            VerifyPattern().call(graph=OnnxGraph(path), linears=[linear])
        calls.append(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined] # the stub lacks it
    assert calls[1] < 1.2 * calls[0]


# --- llm-compressor 0.14 -------------------------------------------------------------------------------------------


def test_llm_compressor_takes_hugging_face_models_only(tmp_path: Path) -> None:
    path = save(one_layer(), tmp_path)
    (row,) = FindLinears().call(graph=OnnxGraph(path)).layers
    assert (row.name, row.k, row.n) == ("MatMul:y", 16, 12)


def test_llm_compressor_replaces_a_singular_gram_matrix_by_the_identity(tmp_path: Path) -> None:
    x = correlated(6)  # six tokens for sixteen channels, and one channel twice
    x[:, 3] = x[:, 2]
    assert torch.linalg.matrix_rank(torch.from_numpy(x.T @ x)) < WIDTH / 2
    dense = normal(WIDTH, 12, seed=5)
    graph, report = exported(one_layer(), tmp_path, [{"x": x[:3]}, {"x": x[3:]}])
    sparse = graph.stored("w")
    assert is_two_four(sparse.T)
    assert not np.array_equal(sparse != 0, by_magnitude(dense) != 0), "plain magnitude"
    assert lost(dense, sparse, x) < 0.1 * lost(dense, by_magnitude(dense), x)
    (row,) = report.layers
    assert row.status is not None
    assert "magnitude" not in row.status
