"""Bars on a terminal, a plain line a stage elsewhere, silence where it was asked for."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from prox24_export.progress import Progress, Silent, Terminal
from tests.command import command, network, samples


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(progress: Progress) -> None:
    with progress.stage("calibrate", 3) as tick:
        for step in range(3):
            tick()
            tick.tell(f"layer {step}: error 0.01")


def test_silent_shows_nothing(capfd: Any) -> None:
    shown(Silent())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"])
def test_elsewhere_a_stage_is_one_plain_line_whatever_the_environment_says(
    variable: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    shown(Terminal())
    told = capfd.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"calibrate: done in \d+\.\d s \(layer 2: error 0\.01\)\n", told.err)


def test_a_terminal_sees_the_stage_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Tty()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    shown(Terminal())
    assert "calibrate" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert "layer 2: error 0.01" in terminal.getvalue()


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    for wanted in (True, False):
        terminal = Tty()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        if not wanted:
            monkeypatch.setenv("NO_COLOR", "1")
        shown(Terminal())
        seen[wanted] = bool(re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.getvalue()))
    assert seen == {True: True, False: False}


@pytest.mark.parametrize("progress", [Silent(), Terminal()])
def test_an_exception_in_a_stage_passes_through(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Tty())
    with pytest.raises(KeyError), progress.stage("calibrate", 3):
        raise KeyError


def test_a_run_tells_its_stages_unless_it_is_quiet(tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--force")
    assert command(*arguments, "--refine", "weights", folder=tmp_path).stages == (
        *("observe channels", "search channel orders", "calibrate and prune", "refine"),
        *("calibrate and prune", "accuracy"),  # refining helped nothing, so that all samples are solved on
    )
    assert command(*arguments, "--no-refine", "--permute", "no", folder=tmp_path).stages == (
        "calibrate and prune",
        "accuracy",
    )
    assert command(*arguments, "--quiet", folder=tmp_path).stages == ()
