"""The plan: what it adds up, and that it writes nothing."""

from pathlib import Path

import pytest

from prox24_export import Settings, plan
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.protocol import Linear
from prox24_export.stages import norms
from prox24_export.stages.plan import Costs, Rates
from tests.command import command, network, samples, snapshot
from tests.graphs import linears

RATES = Rates(single=1e9, double=5e8, rounded=2e9, cholesky=1e9)


def layers_of(folder: Path, k: int) -> list[Linear]:
    return linears(OnnxGraph(network(folder, k=k)))


def test_the_command_prints_memory_and_time_and_writes_nothing(tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    outcome = command("net.onnx", "--calibration", "data.npz", "--plan", folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("peak memory ")
    assert "most time" in outcome.stdout
    assert "the refinement" not in outcome.stdout  # 20 samples are too few for one by default
    refined = command("net.onnx", "--calibration", "data.npz", "--plan", "--refine", "weights", folder=tmp_path)
    assert "the refinement of all layers together is not included" in refined.stdout
    assert snapshot(tmp_path) == before
    samples(tmp_path, 60)
    enough = command("net.onnx", "--calibration", "data.npz", "--plan", folder=tmp_path)
    assert "the refinement of all layers together is not included" in enough.stdout


def test_every_stage_is_planned(tmp_path: Path) -> None:
    planned = plan(network(tmp_path), samples(tmp_path))
    assert [stage.layers for stage in planned.stages] == [("MatMul:a",), ("MatMul:y",)]
    assert planned.memory_mb == max(stage.memory_mb for stage in planned.stages) > 50
    assert planned.seconds > sum(stage.seconds for stage in planned.stages) > 0
    assert plan(network(tmp_path), samples(tmp_path), settings=Settings(exclude=("*",))).stages == ()


def test_more_effort_tokens_and_width_take_longer(tmp_path: Path) -> None:
    def seconds(effort: str, tokens: int, k: int) -> float:
        costs = Costs(RATES, Settings(effort=effort), parts=2)  # type: ignore[arg-type]
        return costs.seconds([k], layers_of(tmp_path, k)[:1], tokens)

    assert seconds("fast", 100, 64) < seconds("default", 100, 64) < seconds("thorough", 100, 64)
    assert seconds("default", 100, 64) < seconds("default", 1000, 64)
    assert seconds("default", 100, 64) < seconds("default", 100, 128)


def test_a_baseline_takes_no_time_for_gram_matrices_that_it_does_not_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rates, "measure", lambda: Rates(1e3, 1e3, 1e3, 1e3))  # a machine on which they take for ever
    model, data = network(tmp_path), samples(tmp_path)

    def planned(widest: int) -> float:
        monkeypatch.setattr(norms, "WIDEST_MEASURED", widest)
        return plan(model, data, settings=Settings(method="wanda")).seconds

    assert planned(4) < planned(2048) / 10


def test_the_machines_rates_are_measured() -> None:
    rates = Rates.measure()
    assert min(rates.single, rates.double, rates.rounded, rates.cholesky) > 1e7
    assert rates.double < rates.single
