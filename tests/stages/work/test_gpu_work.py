"""Layers that several simulated GPUs solve come to the bits that one comes to."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prox24_export import Settings, export
from prox24_export.option_values import Method
from prox24_export.passes.calibrate.moments import Moments
from prox24_export.results.device import DeviceReport
from prox24_export.stages.work.piece_solver import PieceSolver
from tests.command import samples
from tests.graphs import model, normal, opened, save
from tests.passes.calibrate.networks import GRAPHS, uvw
from tests.simulated_gpu import simulate_gpu
from tests.stages.pruned_graphs import expect_the_same, pruned

FIRST, SECOND = (torch.device("cuda", number) for number in range(2))


@pytest.fixture
def three_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of 8 × 8 in three pieces each."""
    monkeypatch.setattr("prox24_export.solver.solution.ROWS_AT_ONCE", 8 * 3)


@pytest.mark.usefixtures("three_pieces")
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("residual branches", "prox"),
        ("layers that read a graph input at every depth", "prox"),
        ("residual branches", "sparsegpt"),
    ],
)
def test_two_gpus_come_to_the_bits_of_one(
    name: str, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, settings = opened(uvw(GRAPHS[name]), tmp_path), Settings(method=method)
    with simulate_gpu(monkeypatch) as one:
        alone = pruned(graph, tmp_path, settings=settings, devices=[FIRST])
    with simulate_gpu(monkeypatch, count=2) as both:
        spread = pruned(graph, tmp_path, settings=settings, devices=[FIRST, SECOND])
    expect_the_same(alone, spread)
    assert spread[1].executions == alone[1].executions
    assert both.work[0] > both.work[1] > 100  # the stages ran on the first one
    assert len(both.copies) == len(one.copies)  # also of layers whose pieces lay on both


@pytest.mark.usefixtures("three_pieces")
def test_a_gpu_that_is_given_what_another_one_has_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = opened(uvw(GRAPHS["residual branches"]), tmp_path)
    monkeypatch.setattr(Moments, "to", lambda moments, _: moments)
    with (
        simulate_gpu(monkeypatch, count=2),
        pytest.raises(RuntimeError, match=r"on one device\. Got cuda:[01] and cuda:[01]"),
    ):
        pruned(graph, tmp_path, devices=[FIRST, SECOND])


def beside_each_other(folder: Path) -> Path:
    """Three layers that read the same input."""
    graph = "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x, u) b = MatMul(x, v) c = MatMul(x, w) y = Sum(a, b, c) }"
    return save(model(graph, {name: normal(8, 4, seed=place) for place, name in enumerate("uvw")}), folder, "net.onnx")


def test_a_run_on_all_gpus_writes_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = beside_each_other(tmp_path), samples(tmp_path, 40)
    reports = {}
    for device in ("cuda", "cuda:all"):
        settings = Settings(device=device, engine="none", permute="no", refine="no")
        with simulate_gpu(monkeypatch, count=2):
            reports[device] = export(net, data, tmp_path / device, settings=settings, progress=False)
    assert reports["cuda"].device == DeviceReport("cuda:0", "Simulated GPU")
    assert reports["cuda:all"].device == DeviceReport("cuda:0, cuda:1", "Simulated GPU")
    one, both = (next((tmp_path / device).glob("*.onnx")).read_bytes() for device in reports)
    assert one == both


def test_where_one_of_the_gpus_has_no_room_blocks_are_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data, solve_rows = beside_each_other(tmp_path), samples(tmp_path, 40), PieceSolver.solve_rows
    refused: list[int] = []

    def solve_some(solver: PieceSolver, *arguments: Any) -> Any:
        solutions = solve_rows(solver, *arguments)
        if solutions[0].weight.device == SECOND and not solver.sparsify.halvings:
            refused.append(len(solutions))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return solutions

    monkeypatch.setattr(PieceSolver, "solve_rows", solve_some)
    settings = Settings(device="cuda:all", engine="none", permute="no", refine="no")
    with simulate_gpu(monkeypatch, count=2):
        report = export(net, data, tmp_path / "out", settings=settings, progress=False)
    assert refused == [1]  # of three layers, two are the first one's
    assert report.warnings == ("cuda:0 or cuda:1 has no room for blocks of this size: they are halved",)
    assert [layer.state for layer in report.layers] == ["sparse"] * 3
