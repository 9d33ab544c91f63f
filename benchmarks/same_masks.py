"""How far masks depend on how sums are rounded: one thread against two, and the CPU against a simulated GPU.

    python benchmarks/same_masks.py [--model NAME…] [--write]

Runs without a limit of time and without refinement, so that rounding alone can differ. The simulated GPU is that of the
tests: it computes with the CPU's kernels, but runs stages as torch functions in place of ONNX Runtime. A row says
which share of all mask entries differs from the run with one thread, and the signal-to-noise ratio of the outputs.
Exits 1 where that ratio differs by more than half a decibel: other masks have to be as good.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checks import Check, table
from joined_checks import write_joined
from models import MODELS, ROOT, Files, available

from prox24_export.models.find_frontend import find_frontend
from prox24_export.passes.find_linears import FindLinears

LIMIT = 0.5  # dB
WAYS = {"by default": (), "--damping 0.1 --blend 0.5": ("--damping", "0.1", "--blend", "0.5")}
PLAIN = ("--engine", "none", "--permute", "no", "--no-refine", "--no-resume", "--quiet")
SIMULATED = """\
import sys
import pytest
from prox24_export import cli
from tests.simulated_gpu import simulate_gpu

with pytest.MonkeyPatch.context() as patch, simulate_gpu(patch):
    sys.exit(cli.main([*sys.argv[1:], "--device", "cuda"]))
"""
RUNS = {"one thread": (1, False), "two threads": (2, False), "a simulated GPU": (1, True)}


def export(files: Files, out: Path, options: tuple[str, ...], threads: int, *, simulated: bool) -> dict[str, Any]:
    """Runs the command on the CPU or on a simulated GPU, and returns its report."""
    model, calibration, evaluation = map(str, files)
    command = [model, "--calibration", calibration, "--evaluation", evaluation, "--out", str(out), *PLAIN, *options]
    start = ["-c", SIMULATED] if simulated else ["-m", "prox24_export"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *start, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report


def count_differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[int, int]:
    """How many entries of the masks of two reports' models differ, and how many there are."""
    graphs = [find_frontend(Path(report["output"]["path"])).open() for report in (one, other)]
    sparse = {layer["name"] for layer in one["layers"] if layer["state"] == "sparse"}
    differing = entries = 0
    for linear in FindLinears().call(graph=graphs[0]).linears:
        if linear.name in sparse:
            here, there = (linear.find_surviving(graph.stored(linear.weight)) for graph in graphs)
            differing, entries = differing + int((here != there).sum()), entries + here.size
    return differing, entries


def measure(name: str, folder: Path) -> Iterator[Check]:
    """Runs a model in every way, and compares each run with that of one thread."""
    files = MODELS[name][1](folder)
    for way, options in WAYS.items():
        reports = {
            run: export(files, folder / f"{way} {run}", options, threads, simulated=simulated)
            for run, (threads, simulated) in RUNS.items()
        }
        first, *others = RUNS
        for other in others:
            differing, entries = count_differences(reports[first], reports[other])
            yield Check(name, f"mask entries changed by {other}, %, {way}", 100 * differing / entries)
            lost = read_snr(reports[first]) - read_snr(reports[other])
            yield Check(name, f"output SNR lost by {other}, dB, {way}", lost, "≤", LIMIT)


def read_snr(report: dict[str, Any]) -> float:
    """The lowest signal-to-noise ratio of an output, dB."""
    return min(one["snr_db"] for one in report["accuracy"]["outputs"] if one["snr_db"] is not None)


def main() -> int:
    """Measures, prints and writes; 1 if a figure misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS), help="by default all")
    parser.add_argument("--write", action="store_true", help="join the rows with benchmarks/results/same_masks.json")
    options = parser.parse_args()
    checks: list[Check] = []
    for name in filter(available, options.model):
        with tempfile.TemporaryDirectory() as folder:
            for check in measure(name, Path(folder)):
                checks.append(check)
                print(table([check]).splitlines()[-1], flush=True)
    if options.write:
        write_joined("same_masks", checks)
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
