"""A GPU without room: smaller blocks first, and then a clear error that leaves the journal."""

import math
from pathlib import Path

import pytest
import torch

from prox24_export import Settings, export
from prox24_export.process.interrupts import mark_resumable
from prox24_export.stages.device_memory import HALVINGS, DeviceMemoryError, do_in_smaller_blocks
from tests.command import network, samples
from tests.simulated_gpu import GPU, simulate_gpu

PLAIN = Settings(device="cuda", engine="none", permute="no", refine="no")


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


def test_blocks_are_halved_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    said: list[str] = []

    def work(halvings: int) -> int:
        asked.append(halvings)
        if halvings < 3:
            raise torch.OutOfMemoryError
        return halvings

    assert do_in_smaller_blocks(work, GPU, said.append) == 3
    assert (asked, len(said)) == ([0, 1, 2, 3], 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**33))
    asked.clear()
    mark_resumable(None)

    def never(halvings: int) -> None:
        asked.append(halvings)
        raise torch.OutOfMemoryError

    with pytest.raises(DeviceMemoryError, match=r"1\.0 of 8\.0 GB are free, .* do not fit\. Run again where more"):
        do_in_smaller_blocks(never, GPU)  # nobody keeps a journal here
    assert asked == list(range(HALVINGS + 1))
    with pytest.raises(torch.OutOfMemoryError):
        do_in_smaller_blocks(never, torch.device("cpu"))
