"""Runs that fail or are interrupted: their exit codes, and that they leave nothing behind."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from prox24_export import InputError
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.verify_pattern import VerifyPattern
from tests.command import DONE, PREFIX, command, expect_refusal, in_process, network, samples, snapshot

SIZE_LIMIT = 4096  # bytes that a process may write into one file


def test_a_disk_that_takes_no_more_exits_4_and_leaves_nothing(tmp_path: Path) -> None:
    network(tmp_path, hidden=256)
    samples(tmp_path)
    before = snapshot(tmp_path)
    outcome = command(
        *("net.onnx", "--calibration", "data.npz", "--method", "magnitude", "-o", "new/folders/out"),
        folder=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT)),
    )
    expect_refusal(outcome, 4, before, tmp_path)
    assert re.search(r"prox24-export: File too large.*\. Nothing was written\.$", outcome.stderr)


def test_a_parent_that_cannot_hold_a_folder_exits_4_before_any_work(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    (tmp_path / "file").touch()
    before = snapshot(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "absent.npz", "-o", "file/out", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 4, before, tmp_path)
    assert "is not a folder" in outcome.stderr


def unsuitable(*_arguments: object, **_more: object) -> NoReturn:
    raise InputError("This does not fit.")


def test_what_is_unsuitable_after_layers_are_solved_exits_2_and_says_how_to_go_on(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.pipeline.write_model", unsuitable)
    network(tmp_path)
    samples(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "data.npz", "--no-refine", folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    told = "This does not fit. What is done is kept: run the same command again to go on, or delete net-2to4.journal."
    assert outcome.stderr.endswith(f"{PREFIX}{told}\n")


def broken(*_arguments: object, **_more: object) -> NoReturn:
    raise RuntimeError("two\nlines")


def test_a_fault_of_ours_before_layers_are_solved_exits_4_in_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.pipeline.solve", broken)
    monkeypatch.delenv("PROX24_TRACEBACK", raising=False)
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    run = ("net.onnx", "--calibration", "data.npz")
    outcome = in_process(*run, "--permute", "no", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 4, before, tmp_path)
    assert outcome.stderr.startswith(f"{PREFIX}internal error: RuntimeError: two. Nothing was written. Set")
    outcome = in_process(*run, folder=tmp_path, capture=capfd)  # which finds an order of channels before
    assert "Nothing was written. Run the same command again to go on, or delete net-2to4.journal. Set" in outcome.stderr
    assert {path.name for path in tmp_path.iterdir()} - before.keys() == {"net-2to4.journal"}


@pytest.mark.parametrize(
    ("library", "fault", "told"),
    [
        ("numba", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("onnxruntime", "raise ImportError('libgone.so: cannot open')", "ImportError: libgone.so: cannot open"),
    ],
)
def test_a_broken_library_of_others_is_named_and_exits_3(library: str, fault: str, told: str, tmp_path: Path) -> None:
    network(tmp_path)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / f"{library}.py").write_text(fault, "utf-8")
    before = snapshot(tmp_path)
    path = os.pathsep.join(filter(None, (str(tmp_path / "fake"), os.environ.get("PYTHONPATH"))))
    outcome = command("net.onnx", folder=tmp_path, env={**os.environ, "PYTHONPATH": path})
    expect_refusal(outcome, 3, before, tmp_path)
    assert outcome.stderr.startswith(f"{PREFIX}{library} cannot be imported: {told}. Nothing was written. Repair")


def test_an_import_of_our_own_that_fails_is_a_fault_of_ours(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {"__name__": "prox24_export.made"}
    exec("def solve(*_): from prox24_export.solver import nothing", made)  # noqa: S102 - as a module of ours
    monkeypatch.setattr("prox24_export.pipeline.solve", made["solve"])
    monkeypatch.delenv("PROX24_TRACEBACK", raising=False)
    network(tmp_path)
    outcome = in_process("net.onnx", folder=tmp_path, capture=capfd)
    assert outcome.code == 4
    assert "internal error: ImportError: cannot import name 'nothing' from 'prox24_export.solver'" in outcome.stderr


LATER = {
    "refinement": "prox24_export.stages.solve.refine",
    "budget": "prox24_export.pipeline.stay_within_budget",
    "accuracy": "prox24_export.pipeline.measure_accuracy",
    "estimate": "prox24_export.pipeline.estimate_gain",
    "engines": "prox24_export.pipeline.measure_engines",
    "gates": "prox24_export.pipeline.judge",
    "report.html": "prox24_export.report.html.render",
}


@pytest.mark.parametrize("stage", LATER)
def test_a_fault_of_a_later_stage_costs_no_solved_layer_is_named_and_exits_1(
    stage: str, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LATER[stage], broken)
    monkeypatch.delenv("PROX24_TRACEBACK", raising=False)
    network(tmp_path)
    samples(tmp_path, count=64)
    outcome = in_process("net.onnx", "--calibration", "data.npz", "-o", "out", folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (1, "")
    assert f"failed: {stage}: RuntimeError: two\n" in outcome.stdout
    assert "2 of 2 prunable layers are 2:4 sparse" in outcome.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["faults"] == [{"stage": stage, "message": "RuntimeError: two"}]
    shown = {"summary.md", "junit.xml", "report.html"} - {stage}
    assert sorted(report["files"]) == sorted({"model.onnx", "report.json", "DEPLOY.md", *shown})
    assert all("RuntimeError: two" in (tmp_path / "out" / name).read_text("utf-8") for name in shown)
    written = OnnxGraph(tmp_path / "out" / "model.onnx")
    VerifyPattern().call(graph=written, linears=FindLinears().call(graph=written).linears)


# A runner in the background starts its children with SIGINT ignored, and so would they leave it.
DEFAULT_SIGNALS = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
WHILE_SOLVING = """\
import os, sys
from prox24_export import cli
from prox24_export.solver import layer

find_masks = layer.find_masks

def interrupt(*arguments):
    os.kill(os.getpid(), int(sys.argv[1]))
    return find_masks(*arguments)

layer.find_masks = interrupt
sys.exit(cli.main(["net.onnx", "--calibration", "data.npz", "-o", "new/out", "--permute", "no"]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_before_a_layer_is_solved_exits_130_and_leaves_nothing(
    sent: signal.Signals, tmp_path: Path
) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    command = [sys.executable, "-c", DEFAULT_SIGNALS + WHILE_SOLVING, str(int(sent))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert DONE.sub("", done.stderr) == f"{PREFIX}interrupted. Nothing was written.\n"
    assert snapshot(tmp_path) == before


WHILE_WRITING = """\
import os, sys
from prox24_export import cli
from prox24_export.report import html

def interrupt(report, masks):
    if not os.path.isdir("out.unfinished"):
        os._exit(1)
    os.kill(os.getpid(), signal.SIGINT)

html.render = interrupt
sys.exit(cli.main(["net.onnx", "--calibration", "data.npz", "-o", "out"]))
"""


def test_an_interrupt_while_the_folder_is_written_exits_130_and_leaves_the_journal_alone(tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", DEFAULT_SIGNALS + WHILE_WRITING],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    told = "interrupted; run the same command again to go on, or delete out.journal."
    assert DONE.sub("", done.stderr) == f"{PREFIX}{told}\n"
    assert {path.name for path in tmp_path.iterdir()} - before.keys() == {"out.journal"}
