"""What a run foresees of its stages: each that will run, in order, and nothing where it cannot be found out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prox24_export import Settings, export
from prox24_export.data import batches
from prox24_export.progress import Logged, foresee
from prox24_export.stages.plan import forecast as module
from prox24_export.stages.run import Run
from tests.command import network, samples


class Told:
    """What the progress of runs was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[str, float] = {}

        def note(progress: Any, seconds: dict[str, float], alike: frozenset[str]) -> None:
            self.seconds = dict(seconds)
            foresee(progress, seconds, alike)

        monkeypatch.setattr("prox24_export.stages.plan.forecast.foresee", note)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def run(folder: Path, count: int, **settings: Any) -> Logged:
    progress = Logged()
    chosen = Settings(engine="none", force=True, **settings)
    export(network(folder), samples(folder, count), folder / "out", settings=chosen, progress=progress)
    return progress


def test_each_stage_that_will_run_is_foreseen_in_order(told: Told, tmp_path: Path) -> None:
    progress = run(tmp_path, 60, refine="weights", refine_minutes=0.0001)
    assert list(told.seconds) == [
        module.OBSERVE,
        module.SEARCH,
        module.PRUNE,
        module.REFINE,
        module.ACCURACY,
        module.END,
    ]
    assert min(told.seconds.values()) >= 0
    assert told.seconds[module.REFINE] == pytest.approx(0.006)  # its limit of time
    assert list(progress.course.expected) == [module.END]  # all others were begun under the same titles


@pytest.mark.parametrize(("device", "told_of"), [("cpu", {"prune": 1.0}), ("cuda:0", {})])
def test_nothing_is_timed_on_the_host_for_a_run_on_a_gpu(
    device: str, told_of: dict[str, float], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_expect_seconds", lambda *_: {"prune": 1.0})
    job: Any = SimpleNamespace(linears=[None], parts=SimpleNamespace(fit=[None]), device=torch.device(device))
    measurement: Any = None
    module.forecast(job, measurement, Run(Logged()))
    assert told.seconds == told_of


def test_what_is_not_wanted_is_not_foreseen(told: Told, tmp_path: Path) -> None:
    run(tmp_path, 20, refine="no", permute="no")
    assert list(told.seconds) == [module.PRUNE, module.ACCURACY, module.END]


def test_a_large_model_is_not_tried_and_a_fault_costs_no_run(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "make_differentiable", fail)
    run(tmp_path, 60, refine="weights", refine_minutes=0.01, permute="no")
    assert told.seconds == {}
    monkeypatch.setattr(module, "LARGEST", 0)
    run(tmp_path, 60, refine="weights", refine_minutes=0.01, permute="no")
    assert 0 < told.seconds[module.REFINE] <= 0.6


def test_a_step_whose_activations_may_not_fit_is_not_tried(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    join = batches.join_samples

    def note(chosen: Any, inputs: Any, size: int) -> Any:
        sizes.append(size)
        return join(chosen, inputs, size)

    monkeypatch.setattr(module, "join_samples", note)
    run(tmp_path, 60, refine="weights", refine_minutes=0.01, permute="no")
    assert sizes[1:] == [1, sizes[-1]]
    assert sizes[-1] > 1
    sizes.clear()
    monkeypatch.setattr(module, "find_memory_left", lambda _: 0.0)
    run(tmp_path, 60, refine="weights", refine_minutes=0.01, permute="no")
    assert sizes[1:] == [1]
    assert 0 < told.seconds[module.REFINE] <= 0.6


def test_nothing_is_timed_where_nobody_is_told(told: Told, tmp_path: Path) -> None:
    export(network(tmp_path), samples(tmp_path, 20), tmp_path / "out", settings=Settings(engine="none"), progress=False)
    assert told.seconds == {}
