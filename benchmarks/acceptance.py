"""Every figure the project promises, by one command: runs `prox24-export` on real models and checks the limits.

    python benchmarks/acceptance.py [--quick] [--write]

Models and data are read from `PROX24_TEST_DATA` (default `../shared/data`); what is absent is skipped with the
reason. `--quick` leaves out repeats and the methods to compare with. `--write` puts the table under
`benchmarks/results/`. Exits 1 if a figure misses its limit.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from checks import Check, table
from models import MODELS, Files, available, export, write
from solver_limits import solver_checks


def digits(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:
    """README's first command."""
    run = export(files, folder)
    yield Check("digits sample", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("digits sample", "top-1 lost, points", run.dense - run.sparse, "≤", 1.0)
    yield Check("digits sample", "seconds", run.seconds, "≤", 180)
    yield Check("digits sample", "dense passes per stream (4 blocks)", run.passes_per_stream, "≤", 3)
    if not quick:
        again = export(files, folder)
        yield Check("digits sample", "same bytes twice", float(again.digest == run.digest), "≥", 1)


def kwt1(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:
    """A 12-block speech transformer."""
    run = export(files, folder)
    yield Check("KWT-1", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("KWT-1", "sparse top-1, % (dense 97.6)", run.sparse, "≥", 96.8)
    yield Check("KWT-1", "seconds", run.seconds, "≤", 90)
    yield Check("KWT-1", "peak memory, GB", run.peak_gb, "≤", 1.5)
    yield Check("KWT-1", "dense passes per stream (12 blocks)", run.passes_per_stream, "≤", 3)
    if quick:
        return
    again = export(files, folder)
    yield Check("KWT-1", "same bytes twice", float(again.digest == run.digest), "≥", 1)
    for method, published in (("sparsegpt", 94.9), ("wanda", 91.1)):
        other = export(files, folder, "--method", method)
        yield Check("KWT-1", f"{method}: top-1 away from {published}, points", abs(other.sparse - published), "≤", 1)


def resnet20(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:
    """A convolutional network."""
    run = export(files, folder)
    yield Check("ResNet-20", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("ResNet-20", "sparse top-1, % (dense 81.3)", run.sparse, "≥", 80.0)
    yield Check("ResNet-20", "seconds", run.seconds, "≤", 90)
    if not quick:
        half = export(files, folder, "--samples", "256")
        yield Check("ResNet-20", "256 images: sparse top-1, %", half.sparse, "≥", 80.0)


def magika(files: Files, folder: Path, *, quick: bool) -> Iterator[Check]:  # noqa: ARG001 (as the others)
    """A production model with a layer that does not fit."""
    run = export(files, folder)
    yield Check("Magika", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("Magika", "top-1 lost, points", run.dense - run.sparse, "≤", 0.3)
    odd = [layer for layer in run.report["layers"] if layer["k"] == 257]
    told = [layer for layer in odd if layer["op"] == "MatMul" and "multiple of 4" in layer["reason"]]
    yield Check("Magika", "K = 257 MatMul skipped with its reason", len(told), "≥", 1)


def main() -> int:
    """Runs the parts whose data are there; 1 if a figure misses its limit."""
    parser = argparse.ArgumentParser(description="Checks every promised figure.")
    parser.add_argument("--quick", action="store_true", help="no repeats, no other methods")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/acceptance.{json,md}")
    arguments = parser.parse_args()
    parts: dict[str, Callable[..., Iterator[Check]]] = dict(zip(MODELS, (digits, kwt1, resnet20, magika), strict=True))
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in filter(available, MODELS):
            for check in parts[model](MODELS[model][1](folder), folder, quick=arguments.quick):
                checks.append(check)
                print(table([check]).splitlines()[-1], flush=True)
    for check in solver_checks(quick=arguments.quick):
        checks.append(check)
        print(table([check]).splitlines()[-1], flush=True)
    if arguments.write:
        write("acceptance", [asdict(check) | {"passed": check.passed} for check in checks], table(checks))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
