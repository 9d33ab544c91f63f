"""The benchmark of bad inputs: a few of each class, and whether it notices what must not be."""

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SAID = "prox24-export: model.onnx is no model. Expected one.\n"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("hostile_inputs.trial")


def judge(trials: Any, folder: Path, code: int, change: Callable[[Path], object] = lambda _: None, **more: Any) -> Any:
    """The faults of a command that ended with a code and printed one sentence, unless `change` does otherwise."""
    case = trials.Case("made", 0, "", ("inspect", "model.onnx"), lambda place: (place / "model.onnx").touch(), **more)
    trial = trials.prepare_trial(case, folder / "trial", own=False)
    (trial.place / "stdout").touch()
    (trial.place / "stderr").write_text("" if code in {0, 1} else SAID, encoding="utf-8")
    change(trial.place)
    return set(trials.end_trial(trial, code << 8, resource.struct_rusage([0] * 16)).faults)


@pytest.mark.parametrize(
    ("code", "change", "faults"),
    [
        (2, lambda _: None, set()),
        (3, lambda _: None, set()),
        (0, lambda _: None, {"code"}),
        (4, lambda _: None, {"code"}),
        (2, lambda place: (place / "in" / "model.onnx").write_text("x"), {"changed"}),
        (2, lambda place: (place / "in" / "out.lock").touch(), {"leftover"}),
        (2, lambda place: (place / "tmp" / "x").touch(), {"leftover"}),
        (2, lambda place: (place / "stdout").write_text("a result"), {"sentence"}),
        (2, lambda place: (place / "stderr").write_text(SAID + SAID), {"sentence"}),
        (2, lambda place: (place / "stderr").write_text(SAID.replace("no", "\x1b[2J")), {"control"}),
        (2, lambda place: (place / "stderr").write_text(SAID.replace("no", "\u202e")), {"control"}),
        (2, lambda place: (place / "stderr").write_text(SAID.replace("model", "internal error")), {"code"}),
        (1, lambda place: (place / "stderr").write_text("Traceback (most recent call last):\n"), {"code", "traceback"}),
    ],
)
def test_what_must_not_be_is_noticed(
    code: int, change: Callable[[Path], object], faults: set[str], trials: Any, tmp_path: Path
) -> None:
    assert judge(trials, tmp_path, code, change) == faults


def test_what_may_be_valid_may_succeed_and_nothing_else(trials: Any, tmp_path: Path) -> None:
    assert judge(trials, tmp_path, 0, may_be_valid=True) == set()
    assert judge(trials, tmp_path, 4, may_be_valid=True) == {"code"}


def test_an_output_that_is_not_whole_is_noticed(trials: Any, tmp_path: Path) -> None:
    export = ("model.onnx", "-o", "out")
    case = trials.Case("made", 0, "", export, lambda _: None, may_be_valid=True, inject="open:EIO:1")
    trial = trials.prepare_trial(case, tmp_path / "trial", own=False)
    for name in ("stdout", "stderr"):
        (trial.place / name).touch()
    (trial.place / "in" / "out").mkdir()
    assert trials.end_trial(trial, 0, resource.struct_rusage([0] * 16)).faults == ["torn"]


def test_a_few_inputs_of_each_class_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "hostile.py", "--each", "3", "--work", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout
    found = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text("utf-8").splitlines()]
    assert len(found) == 24
    assert sum(row["code"] in {2, 3} for row in found) >= 12
    assert {path.name for path in tmp_path.iterdir()} == {"journal.jsonl"}


def test_the_committed_result_holds_no_fault() -> None:
    result = json.loads((BENCHMARKS / "results" / "hostile.json").read_text(encoding="utf-8"))
    *classes, whole = result["rows"]
    columns = list(whole)
    assert len(classes) == 8
    assert whole["refused"] >= 3000
    assert all(row["own process"] >= 20 for row in classes)
    assert all(whole[column] == 0 for column in columns[columns.index("still valid") + 1 :])
