"""Clocks and throttling: answers of nvidia-smi as drivers give them, and a pynvml of the same figures."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.engines.timing.gpu_state import (
    REASONS,
    GpuState,
    GpuStateError,
    are_clocks_locked,
    parse_csv,
    read_state,
)

H100 = GpuState("NVIDIA H100 80GB HBM3", "580.95.05", 1590, 1980, 0x4)


@pytest.fixture(autouse=True)
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that runs `body`; nothing else is on the path but the shell's own tools."""
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("text", "clocks", "reasons", "throttled"),
    [
        # Clocks and mask of the first are a published reading of an H100 at its power limit; the others vary it.
        (
            "NVIDIA H100 80GB HBM3, 580.95.05, 1590, 1980, 0x0000000000000004\n",
            (1590, 1980),
            ("software power cap",),
            True,
        ),
        ("NVIDIA H100 80GB HBM3, 580.95.05, 1590 MHz, 1980 MHz, 0x0000000000000004\n", (1590, 1980), None, True),
        ("NVIDIA A100-SXM4-40GB, 535.104.05, 210, 1410, 0x0000000000000001\n", (210, 1410), ("idle",), False),
        ("NVIDIA GeForce RTX 3090, 550.54, 1950, 2115, 0x0000000000000020\n", (1950, 2115), None, True),
        ("NVIDIA GeForce RTX 3090, 550.54, 1950, 2115, 0x0000000000000000\n", (1950, 2115), (), False),
        ("X, 1, 1305, 1980, 0x0000000000000002\n", (1305, 1980), ("applications clocks setting",), False),
        (
            "X, 1, 1305, 1980, 0x0000000000000068\n",
            (1305, 1980),
            ("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown"),
            True,
        ),
        ("X, 1, 900, 1980, 0x0000000000001010\n", (900, 1980), ("sync boost", "unknown reason 0x1000"), False),
        ("Orin, 540.4.0, [N/A], [N/A], [N/A]\n", (None, None), (), False),
        ("X, 1, [Not Supported], 1980, [Not Supported]\n", (None, 1980), (), False),
        ("\nA, 1, 1, 2, 0x1\nB, 1, 3, 4, 0x4\n", (1, 2), ("idle",), False),
    ],
)
def test_answers_of_nvidia_smi(
    text: str, clocks: tuple[int | None, int | None], reasons: tuple[str, ...] | None, throttled: bool
) -> None:
    state = parse_csv(text)
    assert (state.sm_mhz, state.max_sm_mhz) == clocks
    assert reasons is None or state.reasons == reasons
    assert bool(state.throttled) == throttled
    assert state.idle == ("idle" in state.reasons)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "a, b, 1, 2\n", "a, b, 1, 2, 3, 4\n"])
def test_other_answers_are_refused(text: str) -> None:
    with pytest.raises(GpuStateError, match="must answer with 5 values"):
        parse_csv(text)


@given(st.integers(0, 0xFFFF))
def test_every_bit_is_named_once(mask: int) -> None:
    state = replace(H100, mask=mask)
    named = [bit for bit, reason in REASONS.items() if reason in state.reasons]
    unknown = [int(reason.rpartition(" ")[2], 0) for reason in state.reasons if reason.startswith("unknown")]
    assert sum(named) + sum(unknown) == mask
    assert set(state.throttled) <= set(state.reasons)


def test_the_newer_name_of_the_reasons_is_asked_first_and_then_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 1590, 1980, 0x0000000000000004'"
    unknown = 'echo "Field \\"clocks_event_reasons.active\\" is not a valid field to query."; exit 2'
    smi(
        tmp_path,
        f'echo "$@" >> {tmp_path}/asked\ncase "$*" in *event_reasons*) {unknown};; esac\n{answer}',
        monkeypatch,
    )
    assert read_state("GPU-1b2c") == H100
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [("event_reasons" in line, "throttle_reasons" in line) for line in asked] == [(True, False), (False, True)]
    assert all(
        line.startswith("-i GPU-1b2c --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,") for line in asked
    )
    assert all(line.endswith("--format=csv,noheader,nounits") for line in asked)


def test_what_nvidia_smi_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, "echo 'No devices were found'; exit 6", monkeypatch)
    with pytest.raises(GpuStateError, match="cannot read the clocks of GPU 0: No devices were found"):
        read_state()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(GpuStateError, match="cannot be run"):
        read_state()


class NVMLError(Exception):
    pass


def nvml(**changes: Any) -> SimpleNamespace:
    closed: list[bool] = []
    functions = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "closed": closed,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: closed.append(True),
        "nvmlDeviceGetHandleByIndex": lambda index: ("index", index),
        "nvmlDeviceGetHandleByUUID": lambda uuid: ("uuid", uuid),
        "nvmlDeviceGetClockInfo": lambda handle, kind: {("index", 0): 1590, ("uuid", "GPU-1"): 1000}[handle] * kind,
        "nvmlDeviceGetMaxClockInfo": lambda _, kind: 1980 * kind,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0x4,
        "nvmlDeviceGetName": lambda _: b"NVIDIA H100 80GB HBM3",
        "nvmlSystemGetDriverVersion": lambda: "580.95.05",
    }
    return SimpleNamespace(**(functions | changes))


def test_pynvml_is_asked_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert read_state() == H100
    assert read_state("GPU-1").sm_mhz == 1000
    assert library.closed == [True, True]
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetCurrentClocksEventReasons=lambda _: 0x20))
    assert read_state().mask == 0x20


def test_nvidia_smi_is_asked_where_pynvml_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise NVMLError("Driver Not Loaded")

    smi(tmp_path, "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 1590, 1980, 0x4'", monkeypatch)
    for broken in (nvml(nvmlInit=fails), nvml(nvmlDeviceGetClockInfo=fails)):
        monkeypatch.setitem(sys.modules, "pynvml", broken)
        assert read_state() == H100


def at(clock: int | None, mask: int = 0) -> GpuState:
    return replace(H100, sm_mhz=clock, mask=mask)


@pytest.mark.parametrize(
    ("readings", "wanted"),
    [
        ([at(1305, 0x2)], True),
        ([at(1305)] * 3, True),
        ([at(1305)] * 2, None),
        ([at(1980)] * 3, None),
        ([at(1305, 0x4)] * 3, None),
        ([at(1305), at(1320), at(1305)], False),
        ([at(210, 0x1), at(1305), at(1305), at(1305)], True),
        ([at(210, 0x1)] * 3, None),
        ([at(None)] * 3, None),
        ([], None),
    ],
)
def test_locked_clocks_are_concluded_from_readings_under_load(readings: list[GpuState], wanted: bool | None) -> None:
    assert are_clocks_locked(readings) is wanted
