"""The order of channels in the whole pipeline: what moves, what is said of it, and when nothing moves."""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from prox24_export import Settings, export, plan
from prox24_export.errors import InputError
from prox24_export.passes.calibrate.frontier import Spill
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.permute import apply
from prox24_export.passes.permute.search import OrderedSpace, search_order
from prox24_export.results.permutation import PermutationReport
from prox24_export.results.report import Report
from prox24_export.stages import permute as stage
from tests.command import in_process
from tests.graphs import is_two_four, model, normal, save

DEEP = """g (float[N,16] x) => (float[N,8] y) {
    a = MatMul(x, w0) b = Add(a, c) r = Relu(b) d = MatMul(r, w1) t = Tanh(d) y = MatMul(t, w2) }"""
SIZES = np.exp(normal(32, seed=7))  # channels of different size, as they are in networks
WEIGHTS = {
    "w0": normal(16, 32) * SIZES.astype(np.float32) / 4,
    "c": normal(32) / 4,
    "w1": normal(32, 32, seed=1) * SIZES.astype(np.float32) / 8,
    "w2": normal(32, 8, seed=2) / 4,
}
PLAIN = Settings(refine="no")


def network(folder: Path) -> Path:
    return save(model(DEEP, WEIGHTS), folder, "deep.onnx")


def samples(count: int = 300, seed: int = 0) -> list[dict[str, Array]]:
    return [{"x": row[None]} for row in normal(count, 16, seed=seed)]


def stored(path: Path) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def order_of(report: Report) -> PermutationReport:
    assert report.permutation is not None
    return report.permutation


def error_of(report: Report) -> float:
    """The error of the layers whose input channels can move: all but the first."""
    return sum(layer.relative_error or 0.0 for layer in report.layers[1:])


def test_layers_lose_less_and_the_report_says_where_every_entry_came_from(tmp_path: Path) -> None:
    path = network(tmp_path)
    kept = export(path, samples(), tmp_path / "no", settings=Settings(refine="no", permute="no"))
    moved = export(path, samples(), tmp_path / "auto", settings=PLAIN)
    assert kept.permutation is None
    assert error_of(moved) < 0.9 * error_of(kept)
    found = order_of(moved)
    assert [space.state for space in found.spaces] == ["fixed", "permuted", "permuted"]
    assert all(space.promised and space.found and space.found > 0.02 for space in found.spaces[1:])
    dense, sparse = stored(path), stored(tmp_path / "auto" / "model.onnx")
    orders = {(place.tensor, place.axis): entry.order for entry in found.orders for place in entry.axes}
    assert orders.keys() == {("w0", 1), ("c", 0), ("w1", 0), ("w1", 1), ("w2", 0)}
    assert np.array_equal(sparse["c"], dense["c"][list(orders["c", 0])])
    back = np.argsort(orders["w2", 0])
    assert np.linalg.norm(sparse["w2"][back] - dense["w2"]) < 0.9 * np.linalg.norm(dense["w2"])
    assert all(is_two_four(sparse[name].T) for name in ("w0", "w1", "w2"))
    assert moved.accuracy is not None
    assert kept.accuracy is not None
    better, plain = (report.accuracy.outputs[0].snr_db for report in (moved, kept) if report.accuracy)
    assert better is not None
    assert plain is not None
    assert better > plain


def test_the_dense_weights_of_layers_that_stay_dense_move_with_their_channels(tmp_path: Path) -> None:
    settings = Settings(refine="no", exclude=("w2",))
    report = export(network(tmp_path), samples(), tmp_path / "out", settings=settings)
    assert report.accuracy is not None
    (output,) = report.accuracy.outputs
    assert output.snr_db is not None
    assert output.snr_db > 4  # with w2 in its old order the output has nothing to do with the dense one
    assert order_of(report).spaces[1].state == "permuted"


@pytest.mark.parametrize(
    ("calibration", "settings", "said"),
    [
        (None, PLAIN, "random inputs do not show what an order costs"),
        (samples(40), Settings(method="magnitude"), "magnitude is a baseline to compare with"),
    ],
)
def test_where_nothing_is_known_of_the_data_channels_stay(
    calibration: Sequence[Any] | None, settings: Settings, said: str, tmp_path: Path
) -> None:
    report = export(network(tmp_path), calibration, tmp_path / "out", settings=settings)
    assert said in order_of(report).reason
    assert np.array_equal(stored(tmp_path / "out" / "model.onnx")["c"], WEIGHTS["c"])


def test_a_baseline_permutes_where_it_is_asked_to(tmp_path: Path) -> None:
    settings = Settings(method="magnitude", permute="all")
    report = export(network(tmp_path), samples(40), tmp_path / "out", settings=settings)
    assert order_of(report).reason == "2 of 3 channel spaces have a new order"


def test_a_copy_that_computes_something_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def move_wrongly(*arguments: Any) -> dict[str, Array]:
        return {name: array[::-1].copy() for name, array in apply.move_tensors(*arguments).items()}

    monkeypatch.setattr(stage, "move_tensors", move_wrongly)
    report = export(network(tmp_path), samples(60), tmp_path / "out", settings=PLAIN)
    assert any("--permute no leaves out the search" in warning for warning in report.warnings)
    assert order_of(report).orders == ()
    assert np.array_equal(stored(tmp_path / "out" / "model.onnx")["c"], WEIGHTS["c"])


def test_a_graph_that_cannot_be_followed_is_pruned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("sizes depend on the data")

    monkeypatch.setattr(stage, "trace_to_aten", fail)
    report = export(network(tmp_path), samples(60), tmp_path / "out", settings=PLAIN)
    assert order_of(report).reason == "the graph cannot be followed: sizes depend on the data"
    assert len(report.sparse_layers) == 3
    assert report.passed


def test_a_gain_that_the_solver_does_not_find_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_solve_both_ways", lambda *_: 0.01)
    report = export(network(tmp_path), samples(60), tmp_path / "out", settings=PLAIN)
    assert {space.state for space in order_of(report).spaces[1:]} == {"kept"}
    assert "the solver finds 1.0 % less error" in order_of(report).spaces[1].reason


def test_activations_of_the_search_go_to_disk_where_they_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = export(network(tmp_path), samples(60), tmp_path / "in-memory", settings=PLAIN)
    written: list[Path] = []
    save_tensor = torch.save

    def note(value: Any, file: Path) -> None:
        written.append(file)
        save_tensor(value, file)

    monkeypatch.setattr(torch, "save", note)
    monkeypatch.setattr(stage, "find_spill", lambda _stages, _settings, _parts, folder: Spill(folder))
    report = export(network(tmp_path), samples(60), tmp_path / "out", settings=PLAIN)
    assert [file.name for file in written if file.parent.name != "out.journal"]
    assert order_of(report).orders == order_of(expected).orders != ()
    assert {path.name for path in tmp_path.iterdir()} == {"deep.onnx", "in-memory", "out"}


def test_torch_programs_move_their_parameters_and_their_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.LazyLinear(4)
    )
    module(torch.randn(8, 3, 8, 8) * torch.tensor([1.0, 3.0, 0.2])[None, :, None, None])  # statistics, and sizes
    with torch.no_grad():
        module[0].weight *= torch.exp(torch.randn(16))[:, None, None, None]  # type: ignore[operator] # a tensor
    batches = [torch.randn(8, 3, 8, 8) for _ in range(8)]
    report = export(module.eval(), batches, tmp_path / "out", settings=PLAIN)
    moved = {place.tensor for entry in order_of(report).orders for place in entry.axes}
    assert {"0.weight", "0.bias", "1.running_mean", "1.running_var", "3.weight"} <= moved
    assert report.passed
    assert not report.faults


def test_minutes_without_a_search_are_refused() -> None:
    with pytest.raises(InputError, match="--permute-minutes"):
        Settings(permute="no", permute_minutes=1)


def test_the_search_ends_with_its_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def note(*arguments: Any, seed: int, seconds: float) -> OrderedSpace:
        given.append(seconds)
        return search_order(*arguments, seed=seed, seconds=seconds)

    monkeypatch.setattr(stage, "search_order", note)
    export(network(tmp_path), samples(60), tmp_path / "out", settings=Settings(refine="no", permute_minutes=0.5))
    assert len(given) == 2
    assert 30 >= given[0] > given[1] > 0


def test_what_compiling_takes_is_not_taken_from_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = [0.0], []

    def compile_slowly() -> None:
        now[0] += 1000

    def note(*arguments: Any, seed: int, seconds: float) -> OrderedSpace:
        given.append(seconds)
        return search_order(*arguments, seed=seed, seconds=seconds)

    clocks = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr(stage, "time", clocks)
    monkeypatch.setattr(stage, "prepare_search", compile_slowly)
    monkeypatch.setattr(stage, "search_order", note)
    export(network(tmp_path), samples(60), tmp_path / "out", settings=Settings(refine="no", permute_minutes=0.5))
    assert given == [30, 30]


def test_a_search_that_is_cut_short_says_so(tmp_path: Path) -> None:
    settings = Settings(refine="no", permute_minutes=1e-9)
    report = export(network(tmp_path), samples(60), tmp_path / "out", settings=settings)
    assert any("cut short by its limit of 1e-09 minutes" in warning for warning in report.warnings)


def test_inspect_lists_the_spaces_and_why_one_is_fixed(tmp_path: Path, capfd: Any) -> None:
    arguments = ("inspect", network(tmp_path), "--channels")
    told = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert told.code == 0
    assert "2 of 3 channel spaces are free" in told.stdout
    assert "16 channels, read by 1 layer, fixed: its channels are those of the input x" in told.stdout
    found = json.loads(in_process(*arguments, "--format", "json", folder=tmp_path, capture=capfd).stdout)
    assert [space["free"] for space in found["channel_spaces"]] == [False, True, True]
    assert len(found["layers"]) == 3


def test_inspect_says_in_one_sentence_that_channels_cannot_be_followed(tmp_path: Path, capfd: Any) -> None:
    graph = """g (float[N,4] x) => (float[N,4] y, string[N] s) {
        y = MatMul(x, w) t = Shape(x) u = Cast<to = 8>(x) s = Squeeze(u) }"""
    path = save(model(graph, {"w": normal(4, 4)}), tmp_path)
    told = in_process("inspect", path, "--channels", folder=tmp_path, capture=capfd)
    assert told.code == 2
    assert re.fullmatch(r".*its channels cannot be followed: .*\. Leave out --channels\.\n", told.stderr)


def test_the_plan_counts_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prox24_export.stages.plan.plan.Costs.search_seconds", lambda *_: 1e6)
    path = network(tmp_path)
    with_search = plan(path, samples(), settings=Settings(refine="no", permute="auto"))
    without = plan(path, samples(), settings=Settings(refine="no", permute="no"))
    assert with_search.seconds > 1e6 > without.seconds
