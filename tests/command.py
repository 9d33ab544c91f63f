"""The command as a user runs it, and what must be true after it refused."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export import cli
from tests.graphs import model, normal, save

SCRIPT = str(Path(sys.executable).with_name("prox24-export"))
PREFIX = "prox24-export: "


DONE = re.compile(r"^[a-z ]+: done in \d+\.\d s( \(.*\))?\n", re.MULTILINE)  # a stage of the run, see progress.py


@dataclass(frozen=True)
class Outcome:
    """What a command left behind; `stderr` without the lines of finished stages, which are in `stages`."""

    code: int
    stdout: str
    stderr: str
    stages: tuple[str, ...] = ()


def outcome_of(code: int, stdout: str, stderr: str) -> Outcome:
    stages = tuple(line.group().partition(":")[0] for line in DONE.finditer(stderr))
    return Outcome(code, stdout, DONE.sub("", stderr), stages)


def command(*arguments: object, folder: Path, **more: Any) -> Outcome:
    """The installed command in a process of its own, started in `folder`."""
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300, check=False, **more
    )
    return outcome_of(done.returncode, done.stdout, done.stderr)


def in_process(*arguments: object, folder: Path, capture: Any) -> Outcome:
    """The same without starting a process: for tables of cases. `capture` is pytest's capfd."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        capture.readouterr()
        code = cli.main([str(argument) for argument in arguments])
    finally:
        os.chdir(before)
    text = capture.readouterr()
    return outcome_of(code, text.out, text.err)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder with its bytes; caches of imported modules left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def expect_refusal(outcome: Outcome, code: int, before: dict[str, bytes | None], folder: Path) -> None:
    """One line that says what is wrong; every file as it was; nothing new."""
    assert outcome.code == code, outcome
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(PREFIX)
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.endswith("\n")
    assert "Traceback" not in outcome.stderr
    assert snapshot(folder) == before


def network(folder: Path, *, k: int = 8, hidden: int = 16, n: int = 4, batch: object = "N") -> Path:
    """Two linear layers with a ReLU between them: `x` [batch, k] → `y` [batch, n]."""
    proto = model(
        f"g (float[{batch},{k}] x) => (float[{batch},{n}] y) {{ a = MatMul(x, w0) b = Relu(a) y = MatMul(b, w1) }}",
        {"w0": normal(k, hidden), "w1": normal(hidden, n)},
    )
    return save(proto, folder, "net.onnx")


def samples(folder: Path, count: int = 20, **more: Any) -> Path:
    """Calibration data for `network`."""
    np.savez(folder / "data.npz", x=normal(count, 8), **more)
    return folder / "data.npz"
