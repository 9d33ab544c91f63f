"""Every figure the project promises, by one command: runs `prox24-export` on real models and checks the limits.

    python benchmarks/acceptance.py [--quick] [--parts NAME ...] [--write]

Models and data are read from `PROX24_TEST_DATA` (default `../shared/data`); what is absent is skipped with the
reason. `--quick` leaves out repeats, the methods to compare with, and the sample, whose run the tests look at.
`--parts` is only those that are named, such as `KWT-1 solver`, so that several can run beside each other. `--write`
puts the table under `benchmarks/results/`. Exits 1 if a figure misses its limit.
"""

import argparse
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from budget import budget_checks
from checks import Check, table
from help import help_checks
from models import MODELS, Files, available, export, save
from precision import precision_checks
from refinement import refinement_checks
from results_files import write_results
from rounding import rounding_checks
from solver_limits import solver_checks

from prox24_export.models.find_frontend import find_frontend

LAYERWISE = "--no-refine"


def digits(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:
    """README's first command."""
    if quick:
        return
    run = export(files, folder)
    yield Check("digits sample", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("digits sample", "top-1 lost, points", run.dense - run.sparse, "≤", 0.3)
    yield Check("digits sample", "seconds", run.seconds, "≤", 180)
    yield Check("digits sample", "dense passes per stream (4 blocks)", run.passes_per_stream, "≤", 3)
    again = export(files, folder)
    yield Check("digits sample", "same bytes twice", float(again.digest == run.digest), "≥", 1)
    made = [sys.executable, str(files[0].with_name("make.py")), "--out", str(folder / "made")]
    told = subprocess.run(made, capture_output=True, text=True, check=True).stdout
    top1 = float(told.split("held-out images: ")[1].split(" %")[0])
    # The weights are the same on one machine only; elsewhere rounding sends the training another way.
    yield Check("digits sample", "made again by its script: top-1 away, points", abs(top1 - run.dense), "≤", 0.51)


def kwt1(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:
    """A 12-block speech transformer, layer by layer."""
    run = export(files, folder, LAYERWISE)
    yield Check("KWT-1", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("KWT-1", "sparse top-1, % (dense 97.6)", run.sparse, "≥", 96.8)
    yield Check("KWT-1", "seconds", run.seconds, "≤", 90)
    yield Check("KWT-1", "peak memory, GB", run.peak_gb, "≤", 1.5)
    yield Check("KWT-1", "dense passes per stream (12 blocks)", run.passes_per_stream, "≤", 3)
    if quick:
        return
    again = export(files, folder, LAYERWISE)
    yield Check("KWT-1", "same bytes twice", float(again.digest == run.digest), "≥", 1)
    for method, published in (("sparsegpt", 94.9), ("wanda", 91.1)):
        other = export(files, folder, "--method", method)
        yield Check("KWT-1", f"{method}: top-1 away from {published}, points", abs(other.sparse - published), "≤", 1)


def resnet20(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:
    """A convolutional network, layer by layer."""
    seeds = 1 if quick else 3  # one seed moves top-1 by half a point
    runs = [export(files, folder, LAYERWISE, "--seed", str(seed)) for seed in range(seeds)]
    top1 = statistics.median(run.sparse for run in runs)
    yield Check("ResNet-20", "pruned weights that Polygraphy calls dense", runs[0].called_dense, "≤", 0)
    yield Check("ResNet-20", f"sparse top-1, % (dense 81.3), median of seeds: {seeds}", top1, "≥", 80.0)
    yield Check("ResNet-20", "seconds", runs[0].seconds, "≤", 90)
    if not quick:
        options = (LAYERWISE, "--samples", "256")
        half = [export(files, folder, *options, "--seed", str(seed)).sparse for seed in range(3)]
        yield Check("ResNet-20", "256 images: sparse top-1, %, median of 3 seeds", statistics.median(half), "≥", 80.0)


def magika(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:  # noqa: ARG001 (as the others)
    """A production model with a layer that does not fit, layer by layer."""
    run = export(files, folder, LAYERWISE)
    yield Check("Magika", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("Magika", "top-1 lost, points", run.dense - run.sparse, "≤", 0.3)
    odd = [layer for layer in run.report["layers"] if layer["k"] == 257]
    told = [layer for layer in odd if layer["op"] == "MatMul" and "multiple of 4" in layer["reason"]]
    yield Check("Magika", "K = 257 MatMul skipped with its reason", len(told), "≥", 1)


def stories(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:
    """A Hugging Face directory: a Llama decoder, layer by layer, calibrated on disjoint blocks of 512 rows."""
    model, calibration, evaluation = files
    rows = np.load(calibration)["input_ids"]
    runs = []
    for block in range(1 if quick else 3):
        cut = save(folder / f"stories_{block}.npz", input_ids=rows[block * 512 :][:512])
        runs.append(export((model, cut, evaluation), folder, LAYERWISE, *([] if block else ["--onnx"])))
    found = [layer for layer in runs[0].report["layers"] if layer["state"] == "sparse"]
    head = [layer for layer in runs[0].report["layers"] if "tied to an embedding" in (layer["reason"] or "")]
    sparse = [run.report["accuracy"]["sparse"]["perplexity"] for run in runs]
    yield Check("stories260K", "linear layers found (of 35)", len(found), "≥", 35)
    yield Check("stories260K", "tied head left dense with its reason", len(head), "≥", 1)
    yield Check("stories260K", "perplexity, dense", runs[0].report["accuracy"]["dense"]["perplexity"], "≤", 4.76)
    name = "perplexity, sparse, rows 0 to 511" if quick else "perplexity, sparse, median of 3 blocks of 512 rows"
    yield Check("stories260K", name, statistics.median(sparse), "≤", 16.0)
    yield Check("stories260K", "seconds", runs[0].seconds, "≤", 120)
    reported, rows = sparse[0], np.load(evaluation)["input_ids"]
    for name, perplexity in (
        ("reloaded", reloaded(runs[0].out, rows)),
        ("in ONNX Runtime", by_onnx(runs[0].out, rows)),
    ):
        away = abs(perplexity / reported - 1)
        yield Check("stories260K", f"perplexity {name}, away from the reported", away, "≤", 1e-3)
    if not quick:
        yield from both_routes(files, folder)


def reloaded(out: Path, rows: np.ndarray[Any, Any]) -> float:
    """Perplexity of the written directory, by transformers and its own loss."""
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "model", local_files_only=True)
    with torch.no_grad():
        losses = [float(model(input_ids=(ids := torch.from_numpy(row[None])), labels=ids).loss) for row in rows]
    return math.exp(statistics.fmean(losses))


def by_onnx(out: Path, rows: np.ndarray[Any, Any]) -> float:
    """Perplexity of the written ONNX file."""
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    losses = []
    for row in rows:
        (logits,) = session.run(None, {"input_ids": row[None]})
        losses.append(
            float(torch.nn.functional.cross_entropy(torch.from_numpy(logits[0, :-1]), torch.from_numpy(row[1:])))
        )
    return math.exp(statistics.fmean(losses))


def both_routes(files: Files, folder: Path) -> Iterator[Check]:
    """The directory, and the ONNX file of the dense model, on the same 128 rows; and the first on one core."""
    model, calibration, evaluation = files
    front = find_frontend(model)
    file = front.write_onnx(front.open(), folder)
    cut = save(folder / "stories_routes.npz", input_ids=np.load(calibration)["input_ids"][:128])
    runs = [export((source, cut, evaluation), folder, LAYERWISE) for source in (model, file)]
    runs.append(export((model, cut, evaluation), folder, LAYERWISE, threads=1))
    errors = [[layer["relative_error"] for layer in run.report["layers"] if layer["state"] == "sparse"] for run in runs]
    same = len(errors[0]) == len(errors[1])
    yield Check("stories260K", "ONNX and torch route find the same layers", float(same), "≥", 1)
    if same:
        yield Check("stories260K", "their relative errors apart, at most", apart(errors[0], errors[1]), "≤", 0.01)
    yield Check("stories260K", "the same on one core instead of all", apart(errors[0], errors[2]), "≤", 0.01)


def apart(ones: Sequence[float], others: Sequence[float]) -> float:
    """Largest ratio of two errors of a layer, less 1."""
    return max(abs(one / other - 1) for one, other in zip(ones, others, strict=True))


def long_checks(*, quick: bool) -> Iterator[Check]:
    """Lower precision, the refinement and the budget, which the quick form leaves out."""
    return iter(()) if quick else itertools.chain(precision_checks(quick=True), refinement_checks(), budget_checks())


def solver_checks_and_help(*, quick: bool) -> Iterator[Check]:
    """What needs no model: the solver by itself, rounding, and the command's help."""
    return itertools.chain(solver_checks(quick=quick), rounding_checks(), help_checks())


OF_MODELS: dict[str, Callable[..., Iterator[Check]]] = dict(
    zip(MODELS, (digits, kwt1, resnet20, magika, stories), strict=True)
)
OTHERS = {"long": long_checks, "solver": solver_checks_and_help}


def run_parts(names: Sequence[str], *, quick: bool) -> Iterator[Check]:
    """The parts of these names, of models those whose data are there."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in names:
            if name in OTHERS:
                yield from OTHERS[name](quick=quick)
            elif available(name):
                yield from OF_MODELS[name](MODELS[name][1](folder), folder, quick=quick)


def main() -> int:
    """Runs all parts, or some of them; 1 if a figure misses its limit."""
    everything = [*OF_MODELS, *OTHERS]
    parser = argparse.ArgumentParser(description="Checks every promised figure.")
    parser.add_argument("--quick", action="store_true", help="no repeats, no other methods")
    parser.add_argument("--parts", nargs="+", choices=everything, metavar="NAME", help=", ".join(everything))
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/acceptance.{json,md}")
    arguments = parser.parse_args()
    if arguments.parts and arguments.write:
        parser.error("--write is for the whole of it: leave out --parts")
    checks: list[Check] = []
    for check in run_parts(arguments.parts or everything, quick=arguments.quick):
        checks.append(check)
        print(table([check]).splitlines()[-1], flush=True)
    if arguments.write:
        write_results("acceptance", [asdict(check) | {"passed": check.passed} for check in checks], table(checks))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
