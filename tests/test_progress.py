"""Progress: a line that fits on a terminal, a plain line a stage elsewhere, logging, notebooks, silence."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import types
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from prox24_export import progress as module
from prox24_export.process.time_left import Course, StageClock, describe_time
from prox24_export.progress import (
    Logged,
    Notebook,
    Progress,
    Silent,
    Terminal,
    choose_progress,
    foresee,
)
from tests.command import in_process, network, samples


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(progress: Progress) -> None:
    with progress.stage("calibrate", 3) as tick:
        for step in range(3):
            tick.place(f"layer {step + 1} of 3")
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
    Terminal().begin()
    shown(Terminal())
    told = capfd.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"calibrate: done in \d+\.\d s \(layer 2: error 0\.01\)\n", told.err)


def test_a_terminal_sees_the_stage_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Tty()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Terminal().stage("calibrate", 3) as tick:
        tick.place("layer 2 of 3")
        tick()
        tick.tell("layer 2: error 0.01")
    assert "calibrate · layer 2 of 3" in terminal.getvalue() or "calibrate: done in" in terminal.getvalue()
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


@pytest.mark.parametrize("progress", [Silent(), Terminal(), Logged()])
def test_an_exception_in_a_stage_passes_through(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Tty())
    with pytest.raises(KeyError), progress.stage("calibrate", 3):
        raise KeyError


def walked(done: int, *, batches: float = 2.0, layers: float = 10.0) -> StageClock:
    """A stage of 20 layers that cost 1 to 20, with five batches each; `done` layers are solved."""
    time = [0.0]
    clock = StageClock("calibrate and prune", {"batches": 100.0, "layers": 210.0}, lambda: time[0])
    for layer in range(done):
        for _ in range(5):
            time[0] += batches
            clock.advance("batches", 1.0)
        time[0] += layers * (layer + 1)
        clock.advance("layers", layer + 1)
        clock.place, clock.said = f"layer {layer + 1} of 20", f"/encoder/layers.{layer}/k_proj/MatMul: error 0.000218"
    return clock


@pytest.mark.parametrize("done", [2, 5, 10, 19])
def test_the_time_left_follows_from_the_kinds_of_steps(done: int) -> None:
    clock = walked(done)
    wanted = 2.0 * 5 * (20 - done) + 10.0 * sum(range(done + 1, 21))
    assert clock.seconds_left() == pytest.approx(wanted)
    assert clock.share() == pytest.approx(1 - wanted / (200 + 2100))


def test_after_a_tenth_of_the_time_it_is_at_most_twice_wrong_though_steps_cost_more_than_was_thought() -> None:
    time = [0.0]
    clock = StageClock("s", {"": 100.0}, lambda: time[0])
    whole = sum(1 + step / 50 for step in range(100))  # the last step takes three times as long as the first
    checked = 0
    for step in range(100):
        time[0] += 1 + step / 50
        clock.advance("", 1.0)
        left = clock.seconds_left()
        if 0.1 <= time[0] / whole <= 0.9:
            checked += 1
            assert left is not None
            assert 0.5 <= left / (whole - time[0]) <= 2
    assert checked > 50


class Simulated:
    """A run of three stages that was foreseen: the clock moves by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.progress = Logged(Course(lambda: self.seconds))
        monkeypatch.setattr(module, "StageClock", lambda title, work: StageClock(title, work, lambda: self.seconds))
        expected = {"observe": 10.0, "search": 20.0, "prune": 40.0, "refine": 100.0, "end": 5.0}
        foresee(self.progress, expected, frozenset({"observe", "prune"}))

    def left(self) -> float | None:
        assert self.progress.course.current is not None
        return self.progress.course.current.run_seconds_left()

    def described(self) -> str:
        assert self.progress.course.current is not None
        return self.progress.course.current.describe(79)


def test_the_time_left_is_that_of_the_whole_run_and_corrects_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Simulated(monkeypatch)
    with run.progress.stage("observe", 10) as tick:
        assert run.left() == pytest.approx(175)
        for _ in range(5):
            run.seconds += 3.0  # three times as slow as was thought
            tick()
        assert run.left() == pytest.approx(15 + 20 + 3 * 40 + 105)  # pruning runs the same graph
        assert run.described().startswith("observe · 5 % · about 4 min")
        for _ in range(5):
            run.seconds += 3.0
            tick()
    with run.progress.stage("prune", 4) as tick:  # nothing had to be searched
        assert run.left() == pytest.approx(120 + 105)
        run.seconds += 60
        assert run.left() == pytest.approx(60 + 105)
        tick()
        tick()
        assert run.left() == pytest.approx(60 + 105)
        run.seconds += 10
    with run.progress.stage("unforeseen", 2) as tick:
        run.seconds += 7
        tick()
        assert run.left() == pytest.approx(7 + 105)
    with run.progress.stage("refine", 100) as tick:
        run.seconds += 1
        tick()
        assert run.left() == pytest.approx(99 + 5, rel=0.01)
        assert run.described() == "refine · 50 % · about 2 min"


def test_a_stage_that_was_not_foreseen_ends_before_the_run_does_and_own_objects_are_told_nothing() -> None:
    own = Silent()
    foresee(own, {"prune": 1.0})
    with own.stage("prune", 2) as tick:
        tick()
    clock = StageClock("prune", {"": 2.0})
    assert clock.run_seconds_left() is None


def test_nothing_is_said_of_the_time_before_it_is_known() -> None:
    clock = StageClock("s", {"batches": 10.0, "layers": 5.0})
    assert clock.seconds_left() is None
    clock.advance("batches", 1.0)
    assert clock.seconds_left() is None  # no layer was seen
    assert "about" not in clock.describe(200)
    assert clock.share() == pytest.approx(1 / 15)


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("done", [2, 9, 19])
def test_no_number_is_cut_and_the_time_left_is_shown(width: int, done: int) -> None:
    line = walked(done).describe(width - 1)
    assert len(line) < width
    assert line.startswith(f"calibrate and prune · layer {done} of 20 · ")
    assert re.search(r" · \d+ % · (about \d+ (min|s)|a few seconds)", line)
    told = line.partition(" · …")[2] or line.rpartition(" · ")[2]
    assert "error" not in told or told.endswith(": error 0.000218")


def test_on_a_narrow_terminal_whole_parts_are_left_out() -> None:
    clock = walked(9)
    assert clock.describe(57) == "calibrate and prune · layer 9 of 20 · 23 % · about 29 min"
    assert clock.describe(40) == "layer 9 of 20 · 23 % · about 29 min"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "a few seconds"),
        (9.9, "a few seconds"),
        (12, "about 10 s"),
        (43, "about 45 s"),
        (58, "about 1 min"),
        (100, "about 2 min"),
        (3600, "about 60 min"),
        (5400, "about 1.5 h"),
    ],
)
def test_a_time_is_as_exact_as_it_deserves(seconds: float, said: str) -> None:
    assert describe_time(seconds) == said


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_a_terminal_of_any_width_shows_whole_numbers_and_the_time_left(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, ticks = Tty(), count()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(module, "StageClock", lambda title, work: StageClock(title, work, lambda: float(next(ticks))))
    with Terminal().stage("calibrate and prune", 20) as tick:
        for layer in range(20):
            tick.place(f"layer {layer + 1} of 20")
            tick()
            tick.tell(f"/model/encoder/layers.{layer}/self_attention/q_proj/MatMul: error 0.000218")
            if layer == 8:
                break
        console_lines = _drawn(terminal, tick)
    assert console_lines
    for line in console_lines:
        assert len(line) < columns
        assert line.endswith((": error 0.000218", "s", "min"))
        assert "layer 9 of 20 · " in line
        assert re.search(r"\d+ % · (about \d+ (s|min)|a few seconds)", line)


def _drawn(terminal: Tty, _tick: object) -> list[str]:
    """The lines of the live display that have the last place; it is drawn four times a second."""
    import time  # noqa: PLC0415 - to wait for one drawing

    for _ in range(40):
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", terminal.getvalue()).replace("\r", "\n")
        found = [line.rstrip() for line in plain.splitlines() if "layer 9 of 20" in line]
        if found:
            return found
        time.sleep(0.1)
    return []


def test_progress_is_logged_where_nobody_asked_for_more(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prox24_export"):
        shown(choose_progress(None))
    told = [record.getMessage() for record in caplog.records]
    assert re.match(r"calibrate · layer \d of 3 · \d+ %", told[0])
    assert re.fullmatch(r"calibrate: done in \d+\.\d s \(layer 2: error 0\.01\)", told[-1])


def test_what_is_wanted_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Silent()
    assert choose_progress(own) is own
    assert isinstance(choose_progress(False), Silent)
    assert isinstance(choose_progress(True), Terminal)
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert isinstance(choose_progress(True), Notebook)


def test_a_notebook_has_one_line_a_stage_that_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    handle = types.SimpleNamespace(update=written.append)

    def display(text: str, *, display_id: bool) -> types.SimpleNamespace:
        assert display_id
        written.append(text)
        return handle

    stand_in = types.SimpleNamespace(Pretty=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=stand_in))
    monkeypatch.setitem(sys.modules, "IPython.display", stand_in)
    shown(Notebook())
    assert written[0] == "calibrate · 0 %"
    assert re.fullmatch(r"calibrate: done in \d+\.\d s \(layer 2: error 0\.01\)", written[-1])


def test_the_first_sign_of_life_comes_before_any_library(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os\nos.write(2, b'TORCH')\nos._exit(7)\n")
    network(tmp_path)
    parent, child = pty.openpty()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    arguments = [sys.executable, "-m", "prox24_export", "net.onnx"]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, stderr=child, check=False)
    os.close(child)
    told = os.read(parent, 10_000).decode()
    os.close(parent)
    assert done.returncode == 7
    assert re.fullmatch(r"loading libraries and the model …\s+TORCH", told)


def test_a_run_tells_its_stages_unless_it_is_quiet(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)

    def stages(*options: str) -> tuple[str, ...]:
        arguments = ("net.onnx", "--calibration", "data.npz", "--force", *options)
        outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
        assert (outcome.code, outcome.stderr) == (0, "")
        return outcome.stages

    assert stages("--refine", "weights") == (
        *("observe channels", "search channel orders", "calibrate and prune", "refine"),
        *("calibrate and prune", "accuracy"),  # refining helped nothing, so that all samples are solved on
    )
    assert stages("--no-refine", "--permute", "no") == ("calibrate and prune", "accuracy")
    assert stages("--quiet") == ()
