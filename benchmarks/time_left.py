"""The time left that a run tells, against the time that it takes from there; and its first sign of life.

    python benchmarks/time_left.py [--write]

Runs the digits sample and KWT-1 by default options, on an idle machine, and asks ten times a second for the time left
of the whole run. Exits 1 if one that is told between a tenth and nine tenths of a run is more than twice wrong, if none
is told there, or if a terminal sees nothing of the command for a second.
"""

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from checks import Check, table
from models import MODELS, available
from results_files import write_results

from prox24_export import Settings, export
from prox24_export.progress import Logged

NAMES = ("digits sample", "KWT-1")
FIRST, LAST, EVERY = 0.1, 0.9, 0.1  # shares of a run that are looked at; seconds between two looks
WRONG, SIGN = 2.0, 1.0  # times; seconds


def follow_run(name: str, folder: Path) -> tuple[float, list[tuple[float, float | None]]]:
    """Runs the pipeline: its seconds, and what was told at which second."""
    model, calibration, evaluation = MODELS[name][1](folder)
    progress, told, ended = Logged(), [], threading.Event()

    def look() -> None:
        while not ended.wait(EVERY):
            if (clock := progress.course.current) is not None:
                told.append((time.perf_counter() - started, clock.run_seconds_left()))

    watcher = threading.Thread(target=look)
    started = time.perf_counter()
    watcher.start()
    try:
        export(
            model,
            str(calibration),
            folder / "out",
            evaluation=str(evaluation),
            settings=Settings(force=True),
            progress=progress,
        )
    finally:
        seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
    return seconds, told


def judge(name: str, seconds: float, told: list[tuple[float, float | None]]) -> list[Check]:
    """How wrong the time left was, and how often nothing was told."""
    inside = [(at, left) for at, left in told if FIRST <= at / seconds <= LAST]
    known = [(at, left) for at, left in inside if left is not None]
    ratios = {at: max(left, 0.01) / (seconds - at) for at, left in known}
    worst = max((max(ratio, 1 / ratio) for ratio in ratios.values()), default=float("inf"))
    at_first = min(ratios, default=0.0)
    return [
        Check(name, "seconds of the run", seconds),
        Check(name, "time left after a tenth, of what it was", ratios.get(at_first, float("nan"))),
        Check(name, "times that it is wrong at most, from a tenth to nine tenths", worst, "≤", WRONG),
        Check(name, "share of looks at which it is told", len(known) / max(1, len(inside)), "≥", 1.0),
    ]


def measure_sign_of_life(folder: Path) -> Check:
    """Seconds until a terminal sees the first character of the command."""
    model, calibration, _ = MODELS["digits sample"][1](folder)
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "prox24_export", str(model), "--calibration", str(calibration), "--plan"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stderr=child, stdout=subprocess.DEVNULL)
    os.read(parent, 1)
    seconds = time.perf_counter() - started
    process.terminate()
    process.wait()
    os.close(parent)
    os.close(child)
    return Check("the command", "seconds until its first sign of life", seconds, "≤", SIGN)


def main() -> int:
    """Measures; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/time_left.{json,md}")
    parser.add_argument("names", nargs="*", help="some models alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks = [measure_sign_of_life(folder)]
        for model in arguments.names or NAMES:
            if available(model):
                checks += judge(model, *follow_run(model, folder))
    print(table(checks))
    if arguments.write:
        write_results("time_left", [asdict(check) | {"passed": check.passed} for check in checks], table(checks))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
