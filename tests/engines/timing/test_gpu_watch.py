"""Readings beside the timing, by a reader of the test's own."""

import threading
from itertools import count

import pytest

from prox24_export.engines.timing import gpu_watch
from prox24_export.engines.timing.gpu_state import GpuState, GpuStateError


def test_the_latest_reading_is_returned_and_the_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_watch, "EVERY", 0.001)
    clocks, enough = count(1000), threading.Event()

    def reader(device: str) -> GpuState:
        clock = next(clocks)
        if clock > 1010:
            enough.set()
        return GpuState(device, "1", clock, 1980, 0)

    before = threading.active_count()
    with gpu_watch.follow_state("7", reader) as (watch, note):
        assert watch is not None
        assert note == ""
        assert enough.wait(10)
        assert watch().name == "7"
        assert (watch().sm_mhz or 0) > 1000
    assert threading.active_count() == before


def test_a_state_that_cannot_be_read_is_told() -> None:
    def reader(device: str) -> GpuState:
        raise GpuStateError(f"no GPU {device}.")

    with gpu_watch.follow_state("3", reader) as (watch, note):
        assert watch is None
        assert note == "clocks and throttling are not known: no GPU 3."
