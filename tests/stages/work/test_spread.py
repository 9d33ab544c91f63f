"""Work that is spread over workers comes to the bits that this process comes to by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prox24_export import InputError, Settings
from prox24_export.data.sample_list import Sample
from prox24_export.data.samples import Parts
from prox24_export.errors import Prox24Error
from prox24_export.models.onnx import OnnxFile
from prox24_export.models.torch_program import TorchProgram
from prox24_export.option_values import Method
from prox24_export.stages.work.spread import Team, gather_team
from tests.graphs import model, normal, opened, save
from tests.passes.calibrate.networks import GRAPHS, uvw
from tests.stages.pruned_graphs import PARTS, expect_the_same, pruned
from tests.stages.work.own_workers import OwnWorkers


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_workers_comes_to_the_same_bits(
    name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.solver.solution.ROWS_AT_ONCE", 8 * 3)  # three pieces a layer
    graph, workers = opened(uvw(GRAPHS[name]), tmp_path), OwnWorkers(count)
    alone = pruned(graph, tmp_path)
    spread = pruned(graph, tmp_path, Team(workers, OnnxFile(graph.path)))
    expect_the_same(alone, spread)
    assert spread[1].executions == alone[1].executions
    assert {worker for _, worker in workers.made} == set(range(count))


@pytest.mark.parametrize("memory", [None, 64.0])
def test_the_workers_of_a_machine_share_the_room_for_activations(memory: float | None, tmp_path: Path) -> None:
    graph, rooms = opened(uvw(GRAPHS["residual branches"]), tmp_path), []
    for count in (1, 4):
        workers = OwnWorkers(count)
        pruned(graph, tmp_path, Team(workers, OnnxFile(graph.path)), Settings(method="magnitude", memory=memory))
        rooms.append(workers.workers[0][1].setup.room)
    assert rooms[0] == pytest.approx(4 * rooms[1], rel=0.2)  # other processes take memory meanwhile


@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "magnitude", "prox-gradient"])
def test_every_method_can_be_spread(method: Method, tmp_path: Path) -> None:
    graph, settings = opened(uvw(GRAPHS["residual branches"]), tmp_path), Settings(method=method)
    spread = pruned(graph, tmp_path, Team(OwnWorkers(2), OnnxFile(graph.path)), settings)
    expect_the_same(pruned(graph, tmp_path, None, settings), spread)


def test_a_lost_worker_is_replaced_and_runs_again_what_it_had_run(tmp_path: Path) -> None:
    graph = opened(uvw(GRAPHS["residual branches"]), tmp_path)
    frontend = OnnxFile(graph.path)
    whole = OwnWorkers(2)
    expected = pruned(graph, tmp_path, Team(whole, frontend))
    for lost in range(1, len(whole.made) + 1):
        workers = OwnWorkers(2, frozenset({lost}))
        found = pruned(graph, tmp_path, Team(workers, frontend))
        expect_the_same(expected, found)
        assert len(workers.made) == len(whole.made) + 1
        assert found[1].executions is not None
        assert expected[1].executions is not None
        assert found[1].executions.calibration >= expected[1].executions.calibration


def test_a_module_that_is_in_no_file_is_written_for_the_workers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
    frontend = TorchProgram.from_module(module, {"input": torch.from_numpy(PARTS.fit[0].feeds["x"])})
    graph = frontend.open()
    samples = [Sample({"input": sample.feeds["x"]}) for sample in PARTS.fit]
    parts = Parts(samples[:7], samples[7:], ())
    team = gather_team(OwnWorkers(2), frontend, graph, tmp_path)
    assert team.frontend.path.is_file()
    expect_the_same(pruned(graph, tmp_path, parts=parts), pruned(graph, tmp_path, team, parts=parts))


def test_work_that_ends_every_worker_is_given_up(tmp_path: Path) -> None:
    graph = opened(uvw(GRAPHS["residual branches"]), tmp_path)
    workers = OwnWorkers(2, frozenset({2, 3, 4}))
    with pytest.raises(
        Prox24Error, match=r"^a worker was lost 3 times in the same work: worker [01] is gone\. .*--memory"
    ):
        pruned(graph, tmp_path, Team(workers, OnnxFile(graph.path)))


def test_a_worker_with_another_model_is_told(tmp_path: Path) -> None:
    graph = opened(uvw(GRAPHS["residual branches"]), tmp_path)
    other = save(model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, u) }", {"u": normal(8, 8)}), tmp_path / "o")
    with pytest.raises(InputError, match=r"found at .* is another one than here\. Expected the same files"):
        pruned(graph, tmp_path, Team(OwnWorkers(1), OnnxFile(other)))


def test_faults_of_the_data_come_from_a_worker_as_from_this_process(tmp_path: Path) -> None:
    graph = opened(uvw(GRAPHS["residual branches"]), tmp_path)
    parts: Any = PARTS.fit[7].feeds
    kept = parts["x"][0, 0]
    parts["x"][0, 0] = np.nan
    told = []
    try:
        for team in (None, Team(OwnWorkers(2), OnnxFile(graph.path))):
            with pytest.raises(InputError, match="NaN or Inf in the activations of layer") as caught:
                pruned(graph, tmp_path, team)
            told.append(str(caught.value))
    finally:
        parts["x"][0, 0] = kept
    assert told[0] == told[1]
