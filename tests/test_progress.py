"""Bars on a terminal, silence elsewhere."""

import io
import sys
from typing import Any

import pytest

from prox24_export.progress import Progress, Silent, Terminal


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(progress: Progress) -> None:
    with progress.stage("calibrate", 3) as tick:
        for _ in range(3):
            tick()


def test_silent_shows_nothing(capfd: Any) -> None:
    shown(Silent())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"])
def test_nothing_is_shown_where_stderr_is_no_terminal_whatever_the_environment_says(
    variable: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    shown(Terminal())
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_the_stage_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Tty()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    shown(Terminal())
    assert "calibrate" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


@pytest.mark.parametrize("progress", [Silent(), Terminal()])
def test_an_exception_in_a_stage_passes_through(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Tty())
    with pytest.raises(KeyError), progress.stage("calibrate", 3):
        raise KeyError
