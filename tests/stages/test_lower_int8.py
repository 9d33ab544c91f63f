"""`--precision int8`: from a float model and samples to a verified pair, its accuracy, sizes, gate and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export import Settings, export, plan
from prox24_export.bench import bench
from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.results.report import Report
from prox24_export.stages.lower import lower
from tests.command import expect_refusal, in_process, network, samples, snapshot
from tests.graphs import is_two_four, model, normal, save
from tests.latency import time_onnxruntime

INT8 = Settings(precision="int8", max_accuracy_drop=50.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("int8")
    np.savez(folder / "labelled.npz", x=normal(40, 8, seed=3), labels=np.arange(40) % 4)
    out = folder / "out"
    report = export(network(folder), samples(folder, 60), out, evaluation=folder / "labelled.npz", settings=INT8)
    return report, out


def test_both_files_are_written_and_the_model_stays_float(finished: tuple[Report, Path]) -> None:
    report, out = finished
    assert sorted(file.name for file in (out / "engines").iterdir()) == ["dense.int8.onnx", "sparse.int8.onnx"]
    types = {tensor.data_type for tensor in onnx.load(out / "model.onnx").graph.initializer}
    assert types == {onnx.TensorProto.FLOAT}
    for kind in ("dense", "sparse"):
        graph = OnnxGraph(out / "engines" / f"{kind}.int8.onnx")
        assert graph.stored("w0_int8").dtype == np.int8
        assert is_two_four(graph.stored("w0_int8").T) is (kind == "sparse")
        assert graph.runner()({"x": normal(3, 8)})[0].shape == (3, 4)
    assert report.engine is not None
    assert report.engine.files == {
        "dense onnx": "engines/dense.int8.onnx",
        "sparse onnx": "engines/sparse.int8.onnx",
    }


def test_the_same_nodes_are_quantised_in_both(finished: tuple[Report, Path]) -> None:
    _, out = finished
    nodes = [
        [(node.op_type, node.name) for node in onnx.load(out / "engines" / f"{kind}.int8.onnx").graph.node]
        for kind in ("dense", "sparse")
    ]
    assert nodes[0] == nodes[1]


def test_the_report_knows_accuracy_sizes_scales_and_reasons(finished: tuple[Report, Path]) -> None:
    report, out = finished
    engine = report.engine
    assert engine is not None
    assert engine.precision == "int8"
    assert engine.accuracy.keys() == engine.dense_accuracy.keys() == {"top1"}
    assert [change.metric for change in engine.changes] == ["top1"]
    assert engine.sizes == {
        "dense onnx": (out / "engines" / "dense.int8.onnx").stat().st_size,
        "sparse onnx": (out / "engines" / "sparse.int8.onnx").stat().st_size,
        "dense float": (out.parent / "net.onnx").stat().st_size,
        "sparse float": (out / "model.onnx").stat().st_size,
    }
    assert engine.scales.keys() == {"dense", "sparse"}
    assert list(engine.float_outputs.values()) == ["it is an output of the model, which keeps its type"]
    summary = (out / "summary.md").read_text("utf-8")
    for heading in ("Accuracy in float32 and in INT8", "Files in INT8", "How INT8 scales were chosen"):
        assert heading in summary
        assert heading in (out / "report.html").read_text("utf-8")


def test_the_accuracy_is_that_of_the_file(finished: tuple[Report, Path]) -> None:
    report, out = finished
    arrays = np.load(out.parent / "labelled.npz")
    scores = OnnxGraph(out / "engines" / "sparse.int8.onnx").runner()({"x": arrays["x"]})[0]
    assert report.engine is not None
    assert report.engine.accuracy["top1"] == pytest.approx(100 * (scores.argmax(1) == arrays["labels"]).mean())


def test_the_gate_is_also_held_against_the_int8_file(finished: tuple[Report, Path]) -> None:
    report, _ = finished
    gates = {gate.name: gate for gate in report.gates}
    assert gates.keys() == {"max-accuracy-drop", "max-accuracy-drop of sparse.int8.onnx"}
    assert report.accuracy is not None
    assert report.engine is not None
    lost = report.accuracy.dense["top1"] - report.engine.accuracy["top1"]
    assert gates["max-accuracy-drop of sparse.int8.onnx"].value == pytest.approx(lost)


def test_a_layer_that_stays_float_in_one_file_stays_so_in_both(tmp_path: Path) -> None:
    text = "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x, w) b = Exp(a) [second] c = MatMul(b, v) y = Tanh(c) }"
    paths = [
        save(model(text, {"w": np.full((8, 4), size, np.float32), "v": np.abs(normal(4, 4))}), tmp_path, f"{size}.onnx")
        for size in (100, 1)
    ]
    feeds = [{"x": np.repeat(np.array([[1], [-1]], np.float32), 8, 1)}]
    pair = lower(paths[0], paths[1], [], tmp_path / "engines", precision="int8", feeds=feeds)
    assert pair.lowered is not None
    assert pair.lowered.kept_in_fp32 == {"second": "b holds an infinity or NaN"}
    assert [OnnxGraph(path).stored("v").dtype for path in (pair.dense, pair.sparse)] == [np.float32] * 2


def test_without_calibration_samples_it_ends_with_the_way_out(tmp_path: Path, capfd: Any) -> None:
    path = network(tmp_path)
    before = snapshot(tmp_path)
    done = in_process(path, "--precision", "int8", folder=tmp_path, capture=capfd)
    expect_refusal(done, 2, before, tmp_path)
    assert "--precision int8 takes scales from calibration samples" in done.stderr
    assert "--calibration" in done.stderr
    with pytest.raises(InputError, match="takes scales from calibration samples"):
        plan(path, settings=Settings(precision="int8"))


def test_the_plan_says_that_the_files_are_not_included(tmp_path: Path, capfd: Any) -> None:
    path, data = network(tmp_path), samples(tmp_path)
    assert plan(path, data, settings=Settings(precision="int8")).quantises
    assert not plan(path, data).quantises
    arguments = (path, "--calibration", data, "--precision", "int8", "--plan")
    done = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert "scales and files of --precision int8 are not included" in done.stdout


def test_torch_sparse_does_not_time_it(tmp_path: Path) -> None:
    settings = Settings(precision="int8", engine="torch")
    with pytest.raises(InputError, match="multiplies in fp16 or bf16"):
        export(network(tmp_path), samples(tmp_path), tmp_path / "out", settings=settings)


def test_bench_takes_scales_from_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_onnxruntime(monkeypatch)
    path = network(tmp_path)
    settings = Settings(precision="int8", engine="onnxruntime")
    other = save(onnx.load(path), tmp_path, "same.onnx")
    data = np.load(samples(tmp_path))["x"]
    np.save(tmp_path / "inputs.npy", data)
    report = bench(path, other, tmp_path / "out", inputs=str(tmp_path / "inputs.npy"), settings=settings)
    assert report.engine is not None
    assert report.engine.latency
    assert report.engine.files["sparse onnx"] == "engines/sparse.int8.onnx"
    with pytest.raises(InputError, match="Give some with --inputs"):
        bench(path, other, tmp_path / "none", settings=settings)


def test_bench_knows_the_pruned_layers_of_int8_files(
    finished: tuple[Report, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_onnxruntime(monkeypatch)
    _, out = finished
    files = [out / "engines" / f"{kind}.int8.onnx" for kind in ("dense", "sparse")]
    report = bench(files[0], files[1], tmp_path / "out", batches=(2,), settings=Settings(engine="onnxruntime"))
    assert [layer.name for layer in report.sparse_layers] == [layer.name for layer in report.layers]
    assert len(report.layers) == 2
    assert report.estimate is not None
    assert report.estimate.sparse_share == pytest.approx(1.0)
    turned = bench(files[1], files[0], tmp_path / "turned", batches=(2,), settings=Settings(engine="onnxruntime"))
    assert not turned.sparse_layers
