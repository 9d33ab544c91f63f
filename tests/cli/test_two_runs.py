"""Runs that meet: two at once, one that was killed, a model that changes, a folder that somebody else makes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prox24_export import Settings, export, pipeline
from prox24_export.errors import InputError
from tests.command import DONE, PREFIX, SCRIPT, in_process, network, samples, snapshot

RUN = ("net.onnx", "--calibration", "data.npz", "-o", "out")
# Stops where layers are being solved, says so, and waits.
HALF_WAY = """\
import sys, time
from prox24_export import cli
from prox24_export.solver import layer

def wait(*arguments):
    print("half way", flush=True)
    time.sleep(120)

layer.find_masks = wait
sys.exit(cli.main(sys.argv[1:]))
"""
# A callback of compiled code, in which the exception of a signal gets lost.
SWALLOWED = """\
import os, sys
from prox24_export import cli
from prox24_export.solver import layer

find_masks = layer.find_masks

def swallow(*arguments):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except KeyboardInterrupt:
        pass
    return find_masks(*arguments)

layer.find_masks = swallow
sys.exit(cli.main(sys.argv[2:]))
"""


def start_half_way(folder: Path) -> "subprocess.Popen[str]":
    run = subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, *RUN], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "half way\n"
    return run


def test_of_two_runs_at_once_the_second_is_refused_before_its_work_and_a_killed_one_leaves_nothing_for_ever(
    tmp_path: Path, capfd: Any
) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    with start_half_way(tmp_path) as first:
        beside = snapshot(tmp_path)
        second = in_process(*RUN, folder=tmp_path, capture=capfd)
        assert (second.code, second.stdout, second.stages) == (2, "", ())
        assert second.stderr.startswith(f"{PREFIX}another run is writing {tmp_path / 'out'}. ")
        assert snapshot(tmp_path) == beside
        first.kill()
    assert snapshot(tmp_path).keys() > before.keys()
    third = in_process(*RUN, folder=tmp_path, capture=capfd)
    assert third.code == 0
    left = {name for name in snapshot(tmp_path) if not name.startswith("out/")} - before.keys()
    assert left == {"out"}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_compiled_code_swallows_ends_the_run_all_the_same(sent: int, tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import signal\nsignal.signal({int(sent)}, signal.SIG_DFL)\n{SWALLOWED}",
            str(int(sent)),
            *RUN,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert DONE.sub("", done.stderr) == f"{PREFIX}interrupted. Nothing was written.\n"
    assert snapshot(tmp_path) == before


def test_a_signal_while_the_command_still_loads_exits_130(tmp_path: Path) -> None:
    network(tmp_path)
    before = snapshot(tmp_path)
    code = "import time; time.sleep(60)"  # found before the library of this name
    (tmp_path / "cyclopts.py").write_text(code, "utf-8")
    with subprocess.Popen(
        [sys.executable, "-c", "from prox24_export.__main__ import main; main()", "net.onnx"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        time.sleep(1)
        run.send_signal(signal.SIGTERM)
        assert run.stderr is not None
        assert run.stderr.read() == f"{PREFIX}interrupted. Nothing was written.\n"
    assert run.returncode == 130
    (tmp_path / "cyclopts.py").unlink()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("stage", ["write_model", "judge"])
def test_a_model_that_changes_during_the_run_is_an_error(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(tmp_path)
    data = samples(tmp_path)
    work = getattr(pipeline, stage)

    def change(*arguments: Any, **more: Any) -> Any:
        done = work(*arguments, **more)
        model.write_bytes(model.read_bytes() + b"\x00")
        return done

    monkeypatch.setattr(pipeline, stage, change)
    with pytest.raises(InputError, match=r"net\.onnx was changed while it was read"):
        export(model, data, tmp_path / "out", settings=Settings(method="magnitude"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "net.onnx"]


def test_after_the_folder_is_in_place_a_message_never_says_that_nothing_was_written(tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [SCRIPT, *RUN, "--method", "magnitude", "-q"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr == f"{PREFIX}cannot print the result: No space left on device. out is complete.\n"
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["faults"] == []


def test_force_never_deletes_what_is_read_nor_what_no_run_wrote(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    assert in_process(*RUN, "--method", "magnitude", folder=tmp_path, capture=capfd).code == 0
    (tmp_path / "out" / "notes.txt").write_text("mine", "utf-8")
    before = snapshot(tmp_path)
    inside = [
        ("out/model.onnx", "--calibration", "data.npz"),
        ("net.onnx", "--calibration", "data.npz", "--baseline", "out/report.json"),
    ]
    for arguments in inside:
        refused = in_process(*arguments, "-o", "out", "--force", folder=tmp_path, capture=capfd)
        assert (refused.code, refused.stdout) == (2, "")
        assert "which is read, lies inside the output folder out" in refused.stderr
    refused = in_process(*RUN, "--force", folder=tmp_path, capture=capfd)
    assert refused.code == 2
    assert "out holds notes.txt beside a finished run" in refused.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("closed", ["> /dev/null 2> /dev/full", ">&- 2>&-", "2>&1 | head -c 1 > /dev/null"])
def test_output_that_nobody_reads_ends_no_run(closed: str, tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    line = f"set -o pipefail; {SCRIPT} {' '.join(RUN)} --method magnitude {closed}"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False, env=buffered)
    assert done.returncode == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["faults"] == []
    assert report["accuracy"] is not None
