"""The plan: what it adds up, and that it writes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prox24_export import Settings, plan
from prox24_export.data.sample_list import Sample
from prox24_export.data.samples import Parts
from prox24_export.option_values import Effort
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear, Use
from prox24_export.progress import Silent
from prox24_export.report.terminal import plan_table
from prox24_export.stages import norms
from prox24_export.stages.plan import plan as plan_module
from prox24_export.stages.plan.gpu_rates import GpuPlan, find_planned_gpu
from prox24_export.stages.plan.plan import KERNELS_MB, MODEL_COPIES, Costs, plan_run
from prox24_export.stages.plan.rates import Rates
from prox24_export.stages.work.workers import find_longest_share, find_solving_share
from tests.command import in_process, network, samples, snapshot
from tests.graphs import linears, normal

RATES = Rates(single=1e9, double=5e8, rounded=2e9, cholesky=1e9, inverse=5e8)
# The machine on which the following were measured.
MACHINE = Rates(single=98.4e9, double=46.7e9, rounded=202.8e9, cholesky=59.7e9, inverse=41.7e9)
MEASURED: list[
    tuple[int, int, Effort, float]
] = [  # one thread; processor time of one layer with moments of both streams
    (64, 64, "default", 0.0048),
    (256, 256, "fast", 0.0242),
    (256, 256, "default", 0.0512),
    (768, 768, "fast", 0.2271),
    (768, 768, "default", 0.4045),
    (768, 768, "thorough", 1.0427),
    (512, 2048, "default", 2.3406),
    (2048, 2048, "default", 6.1164),
    (3072, 768, "default", 1.4299),
    (512, 18432, "default", 598.3),  # a convolution of 2,048 channels
]


def layers_of(folder: Path, k: int) -> list[Linear]:
    return linears(OnnxGraph(network(folder, k=k)))


def test_the_command_prints_memory_and_time_and_writes_nothing(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--plan")
    before = snapshot(tmp_path)
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("peak memory ")
    assert "most time" in outcome.stdout
    assert "the refinement" not in outcome.stdout  # 20 samples are too few for one by default
    refined = in_process(*arguments, "--refine", "weights", folder=tmp_path, capture=capfd)
    assert "the refinement of all layers together is not included" in refined.stdout
    assert snapshot(tmp_path) == before
    samples(tmp_path, 60)
    enough = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert "the refinement of all layers together is not included" in enough.stdout


def test_every_stage_is_planned(tmp_path: Path) -> None:
    planned = plan(network(tmp_path), samples(tmp_path))
    assert [stage.layers for stage in planned.stages] == [("MatMul:a",), ("MatMul:y",)]
    assert planned.memory_mb == max(stage.memory_mb for stage in planned.stages) > 50
    assert planned.seconds > sum(stage.seconds for stage in planned.stages) > 0
    assert plan(network(tmp_path), samples(tmp_path), settings=Settings(exclude=("*",))).stages == ()


def test_one_stream_serves_for_both_before_the_first_pruned_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "time_action", lambda action: (1.0, action()))
    settings = Settings(method="magnitude")
    first, second = plan(network(tmp_path), samples(tmp_path), settings=settings).stages
    assert first.seconds > 1
    assert second.seconds == pytest.approx(2 * first.seconds, rel=0.01)


def test_the_memory_is_what_the_process_holds_beside_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "measure_anonymous_mb", lambda: 1000.0)
    planned = plan(network(tmp_path), samples(tmp_path))
    assert 1000 + KERNELS_MB < planned.memory_mb < 1000 + KERNELS_MB + 5


def test_sessions_of_a_whole_model_in_memory_are_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "measure_anonymous_mb", lambda: 1000.0)
    model = network(tmp_path, hidden=1 << 16, n=16)
    planned = plan(model, samples(tmp_path), settings=Settings(exclude=("*",)))
    assert planned.memory_mb == pytest.approx(1000 + MODEL_COPIES * model.stat().st_size / 2**20, abs=0.1)


def test_a_plan_for_a_gpu_prints_what_it_assumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = network(tmp_path), samples(tmp_path)
    planned = plan(net, data, settings=Settings(device="cuda"))
    told = plan_table(planned)
    assert [stage.layers for stage in planned.stages] == [("MatMul:a",), ("MatMul:y",)]
    assert "an NVIDIA A100 80GB SXM" in told
    assert "40% of its data sheet's 19.5 TFLOP/s in float32" in told
    assert "none of these rates was measured by this project" in told
    assert plan(net, data, settings=Settings(device="cpu")).assumptions == ()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    planned_gpu = find_planned_gpu("auto")
    assert planned_gpu == GpuPlan("h100", "NVIDIA H100 80GB HBM3")
    assert planned_gpu is not None
    assert planned_gpu.rates.single > GpuPlan("a100").rates.single
    assert find_planned_gpu("cpu") is None


def test_more_effort_tokens_and_width_take_longer(tmp_path: Path) -> None:
    def seconds(effort: str, tokens: int, k: int) -> float:
        costs = Costs(RATES, Settings(effort=effort), parts=2)  # type: ignore[arg-type]
        return costs.seconds([k], layers_of(tmp_path, k)[:1], tokens)

    assert seconds("fast", 100, 64) < seconds("default", 100, 64) < seconds("thorough", 100, 64)
    assert seconds("default", 100, 64) < seconds("default", 1000, 64)
    assert seconds("default", 100, 64) < seconds("default", 100, 128)


@pytest.mark.parametrize(("rows", "columns", "effort", "measured"), MEASURED)
def test_the_seconds_of_a_solve_are_those_that_were_measured(
    rows: int, columns: int, effort: Effort, measured: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    use = Use("layer", "x", Rows())
    linear = Linear("layer", "MatMul", "weight", "float32", Layout((rows, columns)), columns, rows, (use,))
    planned = Costs(MACHINE, Settings(effort=effort), parts=1).seconds([columns], [linear], 0)
    assert max(planned / measured, measured / planned) <= 1.5


def test_workers_take_their_shares_of_the_batches_and_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = layers_of(tmp_path, 64)
    assert find_solving_share(layers[:1], 4) == 1.0  # one piece
    monkeypatch.setattr("prox24_export.solver.solution.ROWS_AT_ONCE", 64 * 4)
    assert find_solving_share(layers[:1], 2) == 0.5
    assert find_longest_share([2, 1, 1], 2) == 0.5
    job = network(tmp_path), samples(tmp_path)
    planned = plan_run(  # as for a cluster of three
        graph := OnnxGraph(job[0]),
        linears(graph),
        Parts([Sample({"x": normal(1, 8, seed=seed)}) for seed in range(8)], [Sample({"x": normal(1, 8)})] * 2, ()),
        size=1,
        settings=Settings(),
        opening=0.0,
        refines=False,
        permutes=False,
        resumed=None,
        progress=Silent(),
        workers=3,
    )
    assert plan_table(planned).partition("\n")[0].endswith(" s at best with 3 workers")
    assert " MB in each process, time " in plan_table(planned)
    assert " at best" not in plan_table(plan(*job))


def test_a_baseline_takes_no_time_for_gram_matrices_that_it_does_not_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rates, "measure", lambda: Rates(1e3, 1e3, 1e3, 1e3, 1e3))  # they take for ever
    model, data = network(tmp_path), samples(tmp_path)

    def planned(widest: int) -> float:
        monkeypatch.setattr(norms, "WIDEST_MEASURED", widest)
        return plan(model, data, settings=Settings(method="wanda")).seconds

    assert planned(4) < planned(2048) / 10


def test_the_machines_rates_are_measured() -> None:
    rates = Rates.measure()
    assert min(rates.single, rates.double, rates.rounded, rates.cholesky, rates.inverse) > 1e7
    assert rates.double < rates.single
