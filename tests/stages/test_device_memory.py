"""A GPU without room: smaller blocks first, and then a clear error that leaves the journal."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prox24_export import Settings, export
from prox24_export.passes.refine.objective import Objective
from prox24_export.passes.refine.state import RefineProgress
from prox24_export.process.interrupts import mark_resumable
from prox24_export.stages.device_memory import HALVINGS, DeviceMemoryError, do_in_smaller_blocks
from prox24_export.stages.journal import Journal
from prox24_export.stages.prepare import name_model, prepare
from prox24_export.stages.run import Run
from tests.command import network, samples
from tests.simulated_gpu import GPU, simulate_gpu

PLAIN = Settings(device="cuda", engine="none", permute="no", refine="no")
REFINED = replace(PLAIN, refine="weights", damping=0.1)


def test_work_without_room_is_done_in_smaller_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = network(tmp_path), samples(tmp_path, 80)
    reports = []
    for name, largest in (("roomy", math.inf), ("small", 2500)):
        with simulate_gpu(monkeypatch, largest):
            reports.append(export(net, data, tmp_path / name, settings=PLAIN, progress=False))
    roomy, small = reports
    assert roomy.warnings == ()
    assert set(small.warnings) == {"cuda:0 has no room for blocks of this size: they are halved"}
    assert all(layer.state == "sparse" for layer in small.layers)
    assert roomy.executions is not None
    assert small.executions is not None
    assert small.executions.dense_pass > roomy.executions.dense_pass  # more batches


def test_without_any_room_the_journal_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = network(tmp_path), samples(tmp_path, 20)
    with (
        simulate_gpu(monkeypatch, 2000),  # the second layer's Gram matrix takes 2048
        pytest.raises(DeviceMemoryError, match=r"has too little memory: .* What is solved is kept: run") as caught,
    ):
        export(net, data, tmp_path / "out", settings=PLAIN, progress=False)
    assert caught.value.exit_code == 4
    assert (tmp_path / "out.journal").is_dir()
    assert not (tmp_path / "out").exists()
    with simulate_gpu(monkeypatch):
        report = export(net, data, tmp_path / "out", settings=PLAIN, progress=False)
    assert report.gates == ()
    assert not (tmp_path / "out.journal").exists()


def leave_room_for(samples: int, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the objective of so many samples fit into the GPU, and no more; returns what gives its memory back."""
    of = Objective.of

    def planted(objective: Objective, weights: Any, pair: Any, target: Any = None) -> Any:
        if len(pair[0][0]) > samples:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return of(objective, weights, pair, target)

    patch.setattr(Objective, "of", planted)
    return lambda: patch.setattr(Objective, "of", of)


@pytest.fixture
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch, whose result is kept."""
    for name in ("epochs.FEWEST", "epochs.MOST", "model.LONGEST"):
        monkeypatch.setattr(f"prox24_export.passes.refine.{name}", 1)
    monkeypatch.setattr("prox24_export.passes.refine.part.improves", lambda *_: True)


@pytest.mark.usefixtures("few_epochs")
def test_a_refinement_without_room_takes_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data, save = network(tmp_path), samples(tmp_path, 80), Journal.save_progress
    give_back = leave_room_for(6, monkeypatch)
    with simulate_gpu(monkeypatch):
        report = export(net, data, tmp_path / "out", settings=REFINED, progress=False)
    assert report.faults == ()
    assert report.refinement is not None
    assert report.refinement.kept
    said = "cuda:0 has no room for the refinement's batches of this size: they are halved"
    assert report.warnings == (said,)  # 12 samples, and then 6

    def save_and_stop(journal: Journal, progress: RefineProgress) -> None:
        save(journal, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "save_progress", save_and_stop)
    with simulate_gpu(monkeypatch), pytest.raises(KeyboardInterrupt):
        export(net, data, tmp_path / "again", settings=REFINED, progress=False)
    monkeypatch.setattr(Journal, "save_progress", save)
    give_back()
    with simulate_gpu(monkeypatch):  # batches stay as they were, although there is room now
        assert export(net, data, tmp_path / "again", settings=REFINED, progress=False).warnings == ()
    model, again = (next((tmp_path / name).glob("*.onnx")).read_bytes() for name in ("out", "again"))
    assert model == again


@pytest.mark.usefixtures("few_epochs")
def test_a_refinement_without_any_room_leaves_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = network(tmp_path), samples(tmp_path, 80)
    give_back = leave_room_for(0, monkeypatch)
    said = (
        r"are free, and the refinement does not fit with one sample in a batch\. What is solved is kept: .* --no-refine"
    )
    with simulate_gpu(monkeypatch), pytest.raises(DeviceMemoryError, match=said) as caught:
        export(net, data, tmp_path / "out", settings=REFINED, progress=False)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.journal").is_dir()
    give_back()
    monkeypatch.setattr("prox24_export.solver.layer.find_masks", None)  # no layer is solved again
    with simulate_gpu(monkeypatch):
        report = export(net, data, tmp_path / "out", settings=REFINED, progress=False)
    assert report.refinement is not None
    assert report.refinement.kept


def test_blocks_are_halved_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    said: list[str] = []

    def work(halvings: int) -> int:
        asked.append(halvings)
        if halvings < 3:
            raise (torch.OutOfMemoryError if halvings else RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))
        return halvings

    assert do_in_smaller_blocks(work, [GPU], said.append) == 3
    assert (asked, len(said)) == ([0, 1, 2, 3], 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (2**30 << gpu.index, 2**33))
    asked.clear()
    mark_resumable(None)

    def never(halvings: int) -> None:
        asked.append(halvings)
        raise torch.OutOfMemoryError

    with pytest.raises(DeviceMemoryError, match=r"^cuda:0 .* 1\.0 of 8\.0 GB .* not fit\. Run again where more"):
        do_in_smaller_blocks(never, [torch.device("cuda", 1), GPU])  # nobody keeps a journal here
    assert asked == list(range(HALVINGS + 1))
    with pytest.raises(torch.OutOfMemoryError):
        do_in_smaller_blocks(never, [torch.device("cpu")])


def test_other_faults_are_not_taken_for_a_lack_of_room() -> None:
    def work(_: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        do_in_smaller_blocks(work, [GPU])


def test_gram_matrices_that_no_blocks_make_smaller_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data = network(tmp_path), samples(tmp_path, 20)
    with simulate_gpu(monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4000, 4000))
        said = r"the Gram matrices before \S+ take 0\.0 GB, and it has 0\.0\. Run with --device cpu, or leave"
        with pytest.raises(DeviceMemoryError, match=said) as caught:
            export(net, data, tmp_path / "out", settings=PLAIN, progress=False)
    assert caught.value.exit_code == 4
    assert {path.name for path in tmp_path.iterdir()} == {net.name, data.name}


def test_a_gpu_of_any_size_will_do_where_workers_have_the_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = name_model(network(tmp_path), samples(tmp_path, 20), tmp_path / "out")
    with simulate_gpu(monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4000, 4000))
        assert prepare(named, None, replace(PLAIN, ray="local"), Run()).device == GPU
