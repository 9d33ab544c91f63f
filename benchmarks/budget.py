"""What the accuracy budget promises: limits kept on samples the search did not see, fewest layers dense, exit codes.

Compared with the same search in the order of relative error alone. Nothing is refined.

python benchmarks/budget.py
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from checks import Check, table
from models import MODELS, Files, available, save

from prox24_export import Settings
from prox24_export.budget import divided, keep_budget, limits_of, measure_of
from prox24_export.budget_search import ORDERS, RELATIVE_ERROR, Order
from prox24_export.calibration import Sample
from prox24_export.job import Job, prepare
from prox24_export.progress import Silent
from prox24_export.pruning import Pruned, prune
from prox24_export.report.budget_model import BudgetReport
from prox24_export.run import Run
from prox24_export.sensitivity import variant
from prox24_export.weight_store import WeightStore

DROP = 0.3  # points of top-1
SHARE = 0.4  # of the way from the dense model's perplexity to that of everything pruned


@dataclasses.dataclass(frozen=True)
class Kept:
    """One search: what it left dense, and what the model it ended with loses on the samples it did not see."""

    report: BudgetReport
    lost: float
    low: float
    high: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Solved:
    """A model pruned once, without refinement; every search starts from it."""

    job: Job
    pruned: Pruned
    weights: WeightStore
    searched: list[Sample]
    reported: list[Sample]

    @staticmethod
    def of(files: Files, folder: Path, settings: Settings) -> "Solved":
        """Prunes."""
        job = prepare(str(files[0]), str(files[1]), folder / "out", str(files[2]), settings, Run())
        weights = WeightStore(made(folder / "solved"))
        pruned = prune(
            job.graph,
            job.found,
            job.parts,
            weights,
            scratch=folder,
            size=job.size,
            settings=settings,
            progress=Silent(),
        )
        searched, reported = divided(job.parts.report, seed=settings.seed, in_order=False)
        return Solved(job, pruned, weights, list(searched), list(reported))

    def keep(self, settings: Settings, folder: Path, orders: Mapping[str, Order]) -> Kept:
        """Searches on one part of the evaluation samples and measures on the other."""
        job = dataclasses.replace(self.job, settings=settings)
        weights = WeightStore(made(folder / "weights"))
        weights.update(self.weights)
        begun = time.perf_counter()
        limits = limits_of(job, self.searched, measure_of(self.job, self.searched), reported=len(self.reported))
        _, report = keep_budget(
            job,
            self.pruned,
            weights,
            limits,
            samples=len(self.searched),
            again=True,
            scratch=made(folder / "again"),
            run=Run(),
            progress=Silent(),
            orders=orders,
        )
        seconds = time.perf_counter() - begun
        held = measure_of(self.job, self.reported)(variant(job.graph, weights))
        metric = "top1" if settings.max_accuracy_drop is not None else "perplexity"
        change = next((change for change in held.changes if change.metric == metric), None)
        lost = held.sparse[metric] - held.dense[metric]
        ends = (change.low, change.high) if change else (lost, lost)
        worse = sorted(-end for end in ends) if metric == "top1" else sorted(ends)
        return Kept(report, -lost if metric == "top1" else lost, worse[0], worse[1], seconds)


def budget_checks() -> Iterator[Check]:
    """Every figure."""
    with tempfile.TemporaryDirectory() as name:
        if available("ResNet-20"):
            folder = made(Path(name) / "resnet20")
            files = MODELS["ResNet-20"][1](folder)
            solved = Solved.of(files, folder, Settings(max_accuracy_drop=DROP))
            yield from compared(f"ResNet-20, {DROP} points", solved, solved.job.settings, folder)
            yield from command_exits(files, folder)
        if available("stories260K"):
            folder = made(Path(name) / "stories")
            model, calibration, evaluation = MODELS["stories260K"][1](folder)
            cut = save(folder / "stories_128.npz", input_ids=np.load(calibration)["input_ids"][:128])
            solved = Solved.of((model, cut, evaluation), folder, Settings(max_metric_change=1.0))
            ends = measure_of(solved.job, solved.searched)(variant(solved.job.graph, solved.weights))
            limit = round(SHARE * (ends.sparse["perplexity"] - ends.dense["perplexity"]), 1)
            settings = Settings(max_metric_change=limit)
            yield from compared(f"stories260K, perplexity + {limit}", solved, settings, folder)


def compared(name: str, solved: Solved, settings: Settings, folder: Path) -> Iterator[Check]:
    """The search by sensitivity, and the same by relative error alone."""
    ours = solved.keep(settings, made(folder / "ours"), ORDERS)
    theirs = solved.keep(settings, made(folder / "theirs"), RELATIVE_ERROR)
    limit = settings.max_accuracy_drop if settings.max_accuracy_drop is not None else settings.max_metric_change
    yield Check(name, "lost on samples that the search did not see", ours.lost, "≤", limit or 0.0)
    yield Check(name, "lower end of its 95 % interval", ours.low)
    yield Check(name, "upper end of its 95 % interval", ours.high)
    yield Check(name, "layers left dense", len(ours.report.dense))
    yield Check(name, "weights left dense", ours.report.parameters, "≤", theirs.report.parameters - 1)
    yield Check(name, "weights left dense by relative error alone", theirs.report.parameters)
    yield Check(name, "lost there by relative error alone", theirs.lost)
    yield Check(name, "others solved again", float(ours.report.solved_again))
    yield Check(name, "variants measured", len(ours.report.curve))
    yield Check(name, "seconds of the search", ours.seconds)


def command_exits(files: Files, folder: Path) -> Iterator[Check]:
    """Where only the dense model keeps the limit, `--min-sparse-layers 1` fails the run."""
    model, calibration, evaluation = files
    options = ("--budget", "--max-accuracy-drop", "0", "--min-sparse-layers", "1", "--samples", "64")
    command = [sys.executable, "-m", "prox24_export", str(model), "--calibration", str(calibration)]
    command += ["--evaluation", str(evaluation), "--out", str(folder / "none"), *options]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    yield Check("ResNet-20, 0 points, --min-sparse-layers 1", "exit code", done.returncode, "≥", 1)
    yield Check("ResNet-20, 0 points, --min-sparse-layers 1", "exit code", done.returncode, "≤", 1)


def made(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder


if __name__ == "__main__":
    results = []
    for result in budget_checks():
        results.append(result)
        print(table([result]).splitlines()[-1], flush=True)
    sys.exit(int(not all(result.passed for result in results)))
