"""Runs that are spread over workers of Ray against runs of one process: masks, a killed worker, and what it costs.

    python benchmarks/cluster.py [--model KWT-1|stories260K] [--samples N] [--runs N] [--write]

Workers are two processes of this machine with a thread each. What they come to is held against a run of one process
with a thread, byte by byte; in a run more, one of the workers is killed (`kill -9`) once half of the layers are solved.
Times are medians of N runs, which take turns. Models are calibrated on N samples (160), and layers are solved and
nothing else: no order of channels, no refinement. Exits 1 if a byte
differs; `--write` joins the rows with those of other models under `benchmarks/results/`.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from checks import Check, table
from models import MODELS, available
from results_files import RESULTS, write_results
from safetensors.numpy import load_file

NAMES = ("KWT-1", "stories260K")
OPTIONS = ("--permute", "no", "--refine", "no", "--engine", "none", "--quiet")
ALONE, SPREAD = "one process, one thread", "two workers, a thread each"
WORKER = b"ray::_Process"  # what Ray calls the process of a worker
# The command, with a line in a log for each layer that is solved, and the seconds until workers have started.
RUN = """\
import sys, time
from contextlib import contextmanager
from prox24_export import cli, pipeline
from prox24_export.stages import prune

log = open(sys.argv[1], "a", encoding="utf-8")
solved, opened = prune._DoneLayers.take_solved, pipeline.open_workers

def note_layer(done, linear, found):
    print("layer", linear.name, file=log, flush=True)
    solved(done, linear, found)

@contextmanager
def note_start(address):
    began = time.perf_counter()
    with opened(address) as workers:
        print("started", time.perf_counter() - began, 0 if workers is None else workers.count, file=log, flush=True)
        yield workers

prune._DoneLayers.take_solved, pipeline.open_workers = note_layer, note_start
sys.exit(cli.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Measured:
    """A finished run: what it wrote, and its seconds."""

    out: Path
    whole: float
    prune: float
    start: float
    workers: int


class Case:
    """A model with its data, and the runs on it, all in one folder."""

    def __init__(self, name: str, samples: int, folder: Path) -> None:
        """Writes the samples; nothing runs yet."""
        model, calibration, evaluation = MODELS[name][1](folder)
        self.name, self.folder = name, folder
        self.arguments = [str(model), "--calibration", str(calibration), "--evaluation", str(evaluation), *OPTIONS]
        self.arguments += ["--samples", str(samples)]
        self.runs = 0

    def run(self, threads: int, *more: str, kill_at: int | None = None) -> Measured:
        """Runs the command, and kills a worker when so many layers are solved.

        Raises:
            SystemExit: It failed.
        """
        self.runs += 1
        out, log = self.folder / f"out-{self.runs}", self.folder / f"log-{self.runs}"
        command = [sys.executable, "-c", RUN, str(log), *self.arguments, "--out", str(out), *more]
        began = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        while kill_at is not None and process.poll() is None:
            if log.exists() and log.read_text(encoding="utf-8").count("layer") >= kill_at:
                os.kill(list_workers(process.pid)[0], signal.SIGKILL)
                kill_at = None
            time.sleep(0.05)
        if process.wait() or kill_at is not None:
            sys.exit(f"{' '.join(command[3:])} ended with {process.returncode}, or before a worker was killed")
        whole = time.perf_counter() - began
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        lines = log.read_text(encoding="utf-8").splitlines()
        _, start, workers = next(line for line in lines if line.startswith("started")).split()
        return Measured(out, whole, report["seconds"]["prune"], float(start), int(workers))


def list_workers(run: int) -> list[int]:
    """Lists the processes of a run's workers: those whose forebears lead to it."""
    parents, workers = {}, []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                status = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
                if (folder / "cmdline").read_bytes().startswith(WORKER):
                    workers.append(int(folder.name))
            except OSError:  # it has just ended
                continue

    def is_of_run(process: int) -> bool:
        while process > 1 and process != run:
            process = parents.get(process, 0)
        return process == run

    return [process for process in workers if is_of_run(process)]


def read_weights(out: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads the written weights by name."""
    if (out / "model.onnx").is_file():
        proto = onnx.load(out / "model.onnx")
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return dict(load_file(next((out / "model").glob("*.safetensors"))))


def count_differences(first: Path, second: Path) -> tuple[int, int]:
    """Counts weights whose zeros differ, and weights of which any byte differs."""
    one, other = read_weights(first), read_weights(second)
    masks = sum(bool(((one[name] != 0) != (other[name] != 0)).any()) for name in one)
    return masks, sum(one[name].tobytes() != other[name].tobytes() for name in one)


def measure(name: str, samples: int, runs: int, folder: Path) -> tuple[dict[str, Any], list[Check]]:
    """Measures one model."""
    case = Case(name, samples, folder)
    ways: dict[str, tuple[int, tuple[str, ...]]] = {
        ALONE: (1, ()),
        SPREAD: (1, ("--ray", "local")),
    }
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, (threads, more) in ways.items():
            found[way].append(case.run(threads, *more))
    layers = json.loads((found[ALONE][0].out / "report.json").read_text(encoding="utf-8"))["layers"]
    count = sum(layer["state"] == "sparse" for layer in layers)
    killed = case.run(1, "--ray", "local", kill_at=count // 2)
    expected = found[ALONE][0].out
    differing = [count_differences(expected, one.out) for one in (*found[SPREAD], killed)]
    row: dict[str, Any] = {
        "model": name,
        "samples": samples,
        "layers": count,
        "workers": found[SPREAD][0].workers,
        "runs": runs,
    }
    for way, measured in found.items():
        row[way] = {
            part: round(statistics.median(getattr(one, part) for one in measured), 2)
            for part in ("whole", "prune", "start")
        }
    row["killed"] = {"whole": round(killed.whole, 2), "prune": round(killed.prune, 2)}
    row["masks that differ"], row["weights that differ"] = (max(counts) for counts in zip(*differing, strict=True))
    checks = [
        Check(name, "workers", row["workers"], "≥", 2),
        Check(name, "masks that differ, with a killed worker or without", row["masks that differ"], "≤", 0),
        Check(name, "weights of which a byte differs", row["weights that differ"], "≤", 0),
    ]
    return row, checks


def render(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = (
        "| model | samples | layers | masks and weights that differ | calibrate and prune, s: one process | "
        "two workers | two workers, one killed | start of workers, s |"
    )
    lines = [head, "|" + "---|" * 8]
    for row in rows:
        seconds = [f"{row[way]['prune']:.1f}" for way in (ALONE, SPREAD)]
        differ = f"{row['masks that differ']}, {row['weights that differ']}"
        lines.append(
            f"| {row['model']} | {row['samples']} | {row['layers']} | {differ} | {' | '.join(seconds)} | "
            f"{row['killed']['prune']:.1f} | {row[SPREAD]['start']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures the models that are there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=NAMES, action="append")
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows, checks = [], []
    for name in options.model or NAMES:
        if available(name):
            with tempfile.TemporaryDirectory() as folder:
                row, found = measure(name, options.samples, options.runs, Path(folder))
            rows.append(row)
            checks += found
    print(render(rows))
    print(table(checks))
    if options.write:
        file = RESULTS / "cluster.json"
        earlier = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
        new = {row["model"] for row in rows}
        joined = sorted([*rows, *(row for row in earlier if row["model"] not in new)], key=lambda row: row["model"])
        write_results("cluster", joined, render(joined))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
