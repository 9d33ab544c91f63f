"""The whole pipeline on small models: what only shows when the passes work together."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from prox24_export import export
from prox24_export.errors import InputError
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.verify_pattern import PatternError, VerifyPattern
from prox24_export.report import files, html_mask
from prox24_export.results.mask import unpack_thumbnail
from prox24_export.settings import Settings
from prox24_export.solver import Status
from prox24_export.solver.compile_cache import COMMON, find_cache_folder
from prox24_export.stages import memory
from tests.command import network, samples
from tests.graphs import is_two_four, linears, model, normal, opened, save

ONE = "g (float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }"


def feeds(count: int = 12, width: int = 16) -> list[dict[str, Array]]:
    return [{"x": normal(1, width, seed=seed)} for seed in range(count)]


def test_a_gram_matrix_that_cannot_be_factorised_is_a_status_and_no_error(tmp_path: Path) -> None:
    data = feeds()
    for item in data:
        item["x"][:, 3] = 0  # a dead channel, and no damping to make up for it
    path = save(model(ONE, {"w": normal(16, 8)}), tmp_path)
    report = export(path, data, tmp_path / "out", settings=Settings(damping=0.0))
    assert report.layers[0].status == Status.FACTORISATION_FAILED.value
    assert is_two_four(opened(onnx.load(tmp_path / "out" / "model.onnx"), tmp_path).stored("w").T)


def test_wandas_relative_error_is_measured_on_the_gram_matrix_like_all_others(tmp_path: Path) -> None:
    x = normal(64, 16) @ normal(16, 16, seed=1)
    weight = normal(16, 8)
    path = save(model(ONE, {"w": weight}), tmp_path)
    report = export(path, [{"x": x}], tmp_path / "out", evaluation=[{"x": x}], settings=Settings(method="wanda"))
    sparse = opened(onnx.load(tmp_path / "out" / "model.onnx"), tmp_path).stored("w")
    lost = np.square(x @ (weight - sparse)).sum() / np.square(x @ weight).sum()
    assert report.layers[0].relative_error == pytest.approx(lost, rel=1e-4)


@pytest.mark.parametrize(
    ("graph", "stored"),
    [
        ("g (float16[N,16] x) => (float16[N,8] y) { y = MatMul(x, w) }", np.float16),
        ("g (float16[N,16] x) => (float16[N,8] y) { c = Cast<to=10>(w) y = MatMul(x, c) }", np.float32),
    ],
)
def test_a_weight_is_clipped_to_what_its_type_and_the_casts_behind_it_can_hold(
    graph: str, stored: type, tmp_path: Path
) -> None:
    proto = model(graph, {"w": normal(16, 8, dtype=stored)})
    graph_of_it = opened(proto, tmp_path)
    (linear,) = linears(graph_of_it)
    rounded = linear.to_stored(torch.full((8, 16), 1e6))
    assert rounded.dtype == stored
    assert rounded.astype(np.float16).max() == np.finfo(np.float16).max


def test_verification_refuses_a_weight_that_is_not_finite(tmp_path: Path) -> None:
    weight = np.zeros((16, 8), np.float32)
    weight[0] = np.inf
    graph = opened(model(ONE, {"w": weight}), tmp_path)
    with pytest.raises(PatternError, match=r"weight w at node .* holds NaN or Inf"):
        VerifyPattern().call(graph=graph, linears=linears(graph))


def test_outputs_whose_size_depends_on_the_data_do_not_end_the_run(tmp_path: Path) -> None:
    graph = """g (float[N,16] x) => (float[M] found) {
        y = MatMul(x, w) large = Greater(y, zero) flat = Reshape(large, minus) found = Compress(y, flat) }"""
    weights = {"w": normal(16, 8), "zero": np.full((), 0.1, np.float32), "minus": np.array([-1])}
    report = export(save(model(graph, weights), tmp_path), feeds(), tmp_path / "out")
    assert report.accuracy is not None
    assert [output.name for output in report.accuracy.outputs] == ["found"]


def test_a_bfloat16_input_runs_on_a_float32_copy(tmp_path: Path) -> None:
    graph = "g (bfloat16[N,16] x) => (float[N,8] y) { c = Cast<to=1>(x) y = MatMul(c, w) }"
    path = save(model(graph, {"w": normal(16, 8)}), tmp_path)
    report = export(path, feeds(), tmp_path / "out")
    assert any("bfloat16" in warning for warning in report.warnings)
    kept = onnx.load(tmp_path / "out" / "model.onnx").graph.input[0].type.tensor_type.elem_type
    assert kept == onnx.TensorProto.BFLOAT16


@pytest.mark.parametrize(
    ("settings", "calibrated", "said"),
    [
        ({"shapes": {"x": (1, 16)}, "engine": "none"}, True, "--shapes sizes random inputs and engines"),
        ({"method": "wanda", "damping": 0.1}, True, "--damping must be left out with --method wanda"),
        ({"method": "sparsegpt", "blend": 0.5}, True, "--blend must be left out with --method sparsegpt"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    settings: dict[str, object], calibrated: bool, said: str, tmp_path: Path
) -> None:
    path = save(model(ONE, {"w": normal(16, 8)}), tmp_path)
    with pytest.raises(InputError, match=said):
        export(path, feeds() if calibrated else None, tmp_path / "out", settings=Settings(**settings))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_glob_that_matches_no_layer_is_a_warning(tmp_path: Path) -> None:
    path = save(model(ONE, {"w": normal(16, 8)}), tmp_path)
    report = export(path, feeds(), tmp_path / "out", settings=Settings(exclude=("hed*",)))
    assert "--exclude hed* matches no layer." in report.warnings


def test_min_snr_without_a_float_output_is_refused_before_the_work(tmp_path: Path) -> None:
    graph = "g (float[N,16] x) => (int64[N] y) { z = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(z) }"
    path = save(model(graph, {"w": normal(16, 8)}), tmp_path)
    with pytest.raises(InputError, match="--min-snr needs a float output"):
        export(path, feeds(), tmp_path / "out", settings=Settings(min_snr=1.0))


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(model(ONE, {"w": normal(16, 8)}), tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda _self: True)
    with pytest.raises(InputError, match=r"mount point.*-o .*out/run"):
        export(path, feeds(), tmp_path / "out")


def test_onnx_runtime_leaves_nothing_in_the_users_home(tmp_path: Path) -> None:
    path = save(model(ONE, {"w": normal(16, 8)}), tmp_path / "model")
    home = tmp_path / "home"
    home.mkdir()
    compiled = find_cache_folder() / COMMON  # so that nothing is compiled again for this home
    if compiled.is_dir():
        shutil.copytree(compiled, home / ".cache" / "prox24-export" / compiled.parent.name / COMMON)
    given = set(home.rglob("*"))
    left_out = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out} | {"HOME": str(home)}
    command = [sys.executable, "-m", "prox24_export", str(path), "--out", str(tmp_path / "out")]
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=tmp_path)
    assert set(home.rglob("*")) > given, "this was not the home of the run"
    assert not list(home.rglob("*icrosoft*"))


def test_activations_on_disk_give_the_same_bytes_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "{ a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Relu(c) y = MatMul(d, w2) }"  # b is carried on
    weights = {"w0": normal(8, 16), "w1": normal(16, 16), "w2": normal(16, 4)}
    path, data = save(model(f"g (float[N,8] x) => (float[N,4] y) {text}", weights), tmp_path), samples(tmp_path)
    plain = export(path, data, tmp_path / "plain")
    written: list[object] = []
    write = torch.save

    def note(value: object, file: Path) -> None:
        written.append(file)
        write(value, file)

    monkeypatch.setattr(torch, "save", note)
    monkeypatch.setattr(memory, "find_memory_limit", lambda _settings: 0.0)
    offloaded = export(path, data, tmp_path / "offloaded")
    assert written
    assert plain.output.sha256 == offloaded.output.sha256
    assert plain.executions == offloaded.executions  # what both streams share still runs once
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("plain", "offloaded")]
    assert names[0] == names[1] == {"model.onnx", "report.json", "report.html", "summary.md", "junit.xml", "DEPLOY.md"}


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        (np.zeros((20, 4), np.float32), {"max_accuracy_drop": 1.0}, "--max-accuracy-drop is about top-1"),
        (np.zeros(20, np.int64), {"max_metric_change": 1.0}, "--max-metric-change needs a metric other than top-1"),
        (None, {"max_metric_change": 1.0}, "--max-metric-change needs a metric other than top-1"),
    ],
)
def test_a_limit_that_the_samples_cannot_answer_is_refused_before_the_work(
    labels: np.ndarray[Any, Any] | None, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    more: dict[str, Any] = {} if labels is None else {"labels": labels}
    model, data = network(tmp_path), samples(tmp_path, **more)
    with pytest.raises(InputError, match=said):
        export(model, data, tmp_path / "out", settings=replace(Settings(), **settings))
    assert not (tmp_path / "out").exists()


def test_a_run_is_held_against_an_earlier_one(tmp_path: Path) -> None:
    model, data = network(tmp_path), samples(tmp_path, labels=np.arange(20) % 4)
    earlier = export(model, data, tmp_path / "earlier")
    assert earlier.gates == ()
    baseline = str(tmp_path / "earlier" / "report.json")
    again = export(model, data, tmp_path / "again", settings=Settings(baseline=baseline))
    assert {gate.name: gate.passed for gate in again.gates} == {"baseline top1": True, "baseline sparse layers": True}
    fewer = export(model, data, tmp_path / "fewer", settings=Settings(baseline=baseline, exclude=("w1",)))
    assert not fewer.passed
    assert {gate.name for gate in fewer.gates if not gate.passed} >= {"baseline sparse layers"}


def test_a_baseline_that_is_no_report_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(InputError, match="is not a report"):
        export(network(tmp_path), None, tmp_path / "out", settings=Settings(baseline=str(tmp_path / "report.json")))


def test_the_pages_masks_are_those_of_the_weights_and_survive_rendering_again(tmp_path: Path) -> None:
    model, data = network(tmp_path), samples(tmp_path)
    export(model, data, tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    masks = html_mask.read_masks(page.read_text())
    graph = OnnxGraph(tmp_path / "out" / "model.onnx")
    layers = FindLinears().call(graph=graph).linears
    assert masks.keys() == {layer.name for layer in layers}
    for layer in layers:
        assert np.array_equal(unpack_thumbnail(masks[layer.name]), graph.weight(layer).numpy() != 0)
    page.unlink()
    assert files.rerender_folder(tmp_path / "out")[0] == page
    export(model, data, tmp_path / "out", settings=Settings(force=True))
    files.rerender_folder(tmp_path / "out")
    assert html_mask.read_masks(page.read_text()) == masks


def test_a_weight_that_is_computed_from_constants_is_pruned_with_a_note(tmp_path: Path) -> None:
    text = "g (float[N,16] x) => (float[N,8] y) { v = Mul(w, s) y = MatMul(x, v) }"
    path = save(model(text, {"w": normal(16, 8), "s": normal(8)}), tmp_path)
    report = export(path, feeds(), tmp_path / "out", settings=Settings(method="magnitude"))
    (layer,) = report.layers
    assert (layer.weight, layer.state) == ("v", "sparse")
    assert layer.notes[0] == "its weight was computed by Mul: it is stored folded"
    written = onnx.load(tmp_path / "out" / "model.onnx")
    assert [node.op_type for node in written.graph.node] == ["MatMul"]
    assert is_two_four(opened(written, tmp_path).stored("v").T)


# Attention with an additive mask: what it leaves out is −Inf in the scores, and 0 behind the Softmax
ATTENTION = """g (float[N,6,16] x, float[N,6,6] mask) => (float[N,6,8] y) {
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm=[0,2,1]>(k)
    scores = MatMul(q, t) left = Add(scores, mask) p = Softmax<axis=-1>(left) mixed = MatMul(p, v) y = MatMul(mixed, wo)
}"""
WEIGHTS = {"wq": normal(16, 16), "wk": normal(16, 16, seed=1), "wv": normal(16, 16, seed=2), "wo": normal(16, 8)}


def test_minus_inf_in_an_additive_mask_means_what_it_says(tmp_path: Path) -> None:
    path = save(model(ATTENTION, WEIGHTS), tmp_path)
    mask = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    np.savez(tmp_path / "data.npz", x=normal(40, 6, 16), mask=np.tile(mask, (40, 1, 1)))
    report = export(path, str(tmp_path / "data.npz"), tmp_path / "out")
    assert {layer.state for layer in report.layers if layer.weight} == {"sparse"}
    assert all(layer.relative_error is not None and layer.relative_error < 1 for layer in report.layers if layer.weight)
    assert report.passed
    assert report.faults == ()


def test_what_is_tuned_with_minus_inf_is_tuned_as_with_a_mask_of_finite_numbers(tmp_path: Path) -> None:
    path, x = save(model(ATTENTION, WEIGHTS), tmp_path), normal(60, 6, 16)
    settings, left = Settings(refine="weights"), []
    for gone in (-np.inf, -1e4):
        mask = np.tile(np.triu(np.full((6, 6), gone, np.float32), 1), (60, 1, 1))
        feeds = [{"x": x[index : index + 1], "mask": mask[index : index + 1]} for index in range(60)]
        report = export(path, feeds, tmp_path / f"out{gone}", settings=settings)
        assert report.refinement is not None
        assert report.refinement.kept
        assert all(epoch.train is not None for epoch in report.refinement.curve[1:])
        left.append(report.refinement.before)
    assert left[0] == pytest.approx(left[1])


def test_a_mask_that_itself_is_multiplied_by_a_weight_is_refused(tmp_path: Path) -> None:
    graph = "g (float[N,16] mask) => (float[N,8] y) { z = MatMul(mask, w) y = Relu(z) }"
    rows = np.where(normal(20, 16) > 0, -np.inf, -1).astype(np.float32)
    path = save(model(graph, {"w": np.abs(normal(16, 8))}), tmp_path)  # the dense model returns 0
    with pytest.raises(InputError, match="NaN or Inf in the activations of layer MatMul:z"):
        export(path, [{"mask": rows}], tmp_path / "out")
    assert not (tmp_path / "out").exists()
