"""The command that is interrupted while layers are solved, and goes on: what it says, and what is left."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command import DONE, PREFIX, expect_refusal, in_process, network, samples, snapshot

DEFAULT_SIGNALS = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
RUN = ("net.onnx", "--calibration", "data.npz", "-o", "new/out")
AFTER_A_LAYER = f"""\
import os, sys
from prox24_export import cli
from prox24_export.output.records import Records

put = Records.put

def interrupt(records, key, ending, write):
    put(records, key, ending, write)
    if key.startswith(("fit", "all")):
        os.kill(os.getpid(), int(sys.argv[1]))

Records.put = interrupt
sys.exit(cli.main([*{RUN!r}, *sys.argv[2:]]))
"""


def interrupt(folder: Path, sent: int, *options: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command until a layer is recorded."""
    code = [sys.executable, "-c", DEFAULT_SIGNALS + AFTER_A_LAYER, str(sent), *options]
    return subprocess.run(code, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_exits_130_says_how_to_go_on_and_the_same_command_does(
    sent: int, tmp_path: Path, capfd: Any
) -> None:
    network(tmp_path)
    samples(tmp_path)
    done = interrupt(tmp_path, sent)
    assert (done.returncode, done.stdout) == (130, "")
    told = "interrupted; run the same command again to go on, or delete new/out.journal."
    assert DONE.sub("", done.stderr) == f"{PREFIX}{told}\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.journal"]
    planned = in_process(*RUN, "--plan", folder=tmp_path, capture=capfd)
    assert "  an interrupted run goes on: 1 of 2 layers are solved, 1 are left\n" in planned.stdout
    again = in_process(*RUN, folder=tmp_path, capture=capfd)
    assert (again.code, again.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_a_journal_of_other_options_exits_2_and_stays(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    assert interrupt(tmp_path, signal.SIGTERM).returncode == 130
    before = snapshot(tmp_path)
    for more in ((), ("--plan",)):
        outcome = in_process(*RUN, "--effort", "fast", *more, folder=tmp_path, capture=capfd)
        expect_refusal(outcome, 2, before, tmp_path)
        assert outcome.stderr == (
            f"{PREFIX}new/out.journal is of an interrupted run of another kind: --effort was default and is fast. Give "
            "what that run was given to go on with it, start anew with --no-resume, or choose another folder with -o.\n"
        )
    anew = (*RUN, "--effort", "fast", "--no-resume")
    planned = in_process(*anew, "--plan", folder=tmp_path, capture=capfd)
    assert planned.code == 0
    assert "an interrupted run" not in planned.stdout
    assert in_process(*anew, folder=tmp_path, capture=capfd).code == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("option", ["--force", "--no-resume"])
def test_a_run_that_started_anew_goes_on_without_the_option(option: str, tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    done = interrupt(tmp_path, signal.SIGTERM, option)
    told = f"interrupted; run the same command without {option} to go on, or delete new/out.journal."
    assert DONE.sub("", done.stderr) == f"{PREFIX}{told}\n"
    planned = in_process(*RUN, "--plan", folder=tmp_path, capture=capfd)
    assert "1 of 2 layers are solved" in planned.stdout


def test_somebody_elses_folder_of_that_name_is_refused_and_stays(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    (tmp_path / "new" / "out.journal").mkdir(parents=True)
    (tmp_path / "new" / "out.journal" / "diary.txt").write_text("mine", "utf-8")
    before = snapshot(tmp_path)
    for more in ((), ("--force",), ("--no-resume",)):
        outcome = in_process(*RUN, *more, folder=tmp_path, capture=capfd)
        expect_refusal(outcome, 2, before, tmp_path)
        assert "diary.txt is no record of a run" in outcome.stderr
