"""Runs that are killed at random moments, and go on from their journal: same bytes, what is done twice, what is left.

    python benchmarks/resume.py [--model KWT-1|stories260K] [--kills N] [--overhead N] [--write]

Each kill is `kill -9` at a random moment (the seeds are 0 to N − 1) of a run of its own, which the same command then
finishes. The refinement is on, without a limit that could be reached: a result that the clock decides is another one
each time. It takes four epochs: what is looked at is whether it goes on, and not what it comes to. KWT-1 is
calibrated on 96 clips, stories260K on 128 rows. A kill that comes before the work or after the end
is drawn again. With `--overhead` it measures which share of a run on the sample goes into its journal. Exits 1 if a
limit is missed; `--write` joins the rows with those of other models under `benchmarks/results/`.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from checks import Check, table
from joined_checks import write_joined
from models import MODELS, ROOT, available, save

SAMPLES = {"KWT-1": 96, "stories260K": 128}
EPOCHS = 4
UNLIMITED = ("--refine-minutes", "600", "--permute-minutes", "600", "--engine", "none", "--quiet")
# The command, with a line in a log for each layer that is solved, for each step and epoch that is finished, and for the
# seconds of each record.
RUN = """\
import sys, time
from prox24_export import cli
from prox24_export.output.records import Records
from prox24_export.passes.refine import epochs, model
from prox24_export.stages import prune
from prox24_export.stages.journal import Journal

epochs.FEWEST = epochs.MOST = int(sys.argv[1])
model.LONGEST = 1
log = open(sys.argv[2], "a", encoding="utf-8")
put, solved, save = Records.put, prune._DoneLayers.take_solved, Journal.save_progress

def note_layer(done, linear, found):
    print("layer", linear.name, file=log, flush=True)
    solved(done, linear, found)

def note_progress(journal, progress):
    state = progress.state
    kind = "epoch" if state is None or state.is_between_epochs else "step"
    step = "end" if state is None else f"step {state.step}"
    print(kind, len(progress.parts), step, file=log, flush=True)
    save(journal, progress)

def note_seconds(records, key, ending, write):
    began = time.perf_counter()
    put(records, key, ending, write)
    print("seconds", time.perf_counter() - began, file=log, flush=True)

Records.put, prune._DoneLayers.take_solved, Journal.save_progress = note_seconds, note_layer, note_progress
sys.exit(cli.main(sys.argv[3:]))
"""


class Case:
    """A model with its data, and the runs on it, all in one folder."""

    def __init__(self, name: str, folder: Path) -> None:
        """Cuts the calibration samples; nothing runs yet."""
        model, calibration, evaluation = MODELS[name][1](folder)
        arrays = np.load(calibration)
        if name in SAMPLES:
            calibration = save(folder / "cut.npz", **{key: arrays[key][: SAMPLES[name]] for key in arrays.files})
        self.name, self.folder = name, folder
        self.arguments = [str(model), "--calibration", str(calibration), "--evaluation", str(evaluation), *UNLIMITED]

    def run(self, out: str, kill_after: float | None = None) -> bool:
        """Runs the command; returns whether it has ended by itself before it was killed.

        Args:
            out: The output folder; its log lies beside it.
            kill_after: Seconds after which it is killed; None lets it end.
        """
        log = str(self.folder / f"{out}.log")
        command = [sys.executable, "-c", RUN, str(EPOCHS), log, *self.arguments]
        process = subprocess.Popen(
            [*command, "-o", str(self.folder / out)],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        if process.returncode:
            sys.exit(f"{self.name}: the run into {out} ended with {process.returncode}")
        return True

    def digest(self, out: str) -> str:
        """SHA-256 of the model that a run has written."""
        return str(json.loads((self.folder / out / "report.json").read_text("utf-8"))["output"]["sha256"])

    def log(self, out: str, kind: str) -> list[str]:
        """What the runs into a folder have done of a kind, in order."""
        lines = (self.folder / f"{out}.log").read_text("utf-8").splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{kind} ")]


def count_repeated(lines: list[str], whole: list[str]) -> int:
    """How many of these were done more often than by a run that is not killed, which may solve a layer twice itself."""
    return (Counter(lines) - Counter(whole)).total()


def kill_and_resume(case: Case, count: int) -> Iterator[Check]:
    """Kills runs at random moments, and lets the same command finish each."""
    began = time.monotonic()
    case.run("whole")
    seconds = time.monotonic() - began
    other = left = resumed = 0
    again = dict.fromkeys(("layer", "epoch", "step"), 0)
    before = {path.name for path in case.folder.iterdir()}
    for seed in range(count):
        moments, out = random.Random(seed), f"out-{seed}"  # noqa: S311 - moments
        journal = case.folder / f"{out}.journal"
        while not journal.is_dir():
            if case.run(out, moments.uniform(0.1, 1) * seconds):
                shutil.rmtree(case.folder / out)
                (case.folder / f"{out}.log").unlink()
        resumed += any(not path.name.startswith("run.") for path in journal.iterdir())
        case.run(out)
        other += case.digest(out) != case.digest("whole")
        now = {path.name for path in case.folder.iterdir()}
        left += now - before != {out, f"{out}.log"}
        before = now
        for kind, most in again.items():
            again[kind] = max(most, count_repeated(case.log(out, kind), case.log("whole", kind)))
    name = f"{case.name}, {SAMPLES.get(case.name, 'all')} samples"
    yield Check(name, "seconds of a run that is not killed", seconds)
    yield Check(name, f"of {count} kills left records to go on with", resumed)
    yield Check(name, f"of {count} that went on to other bytes", other, "≤", 0)
    yield Check(name, f"of {count} that left more than the output", left, "≤", 0)
    yield Check(name, "solved layers that were solved again, at most", again["layer"], "≤", 1)
    yield Check(name, "finished epochs that were done again, at most", again["epoch"], "≤", 1)
    steps = len(case.log("whole", "step")) // EPOCHS
    yield Check(name, f"steps that were done again, at most, of {steps} in an epoch", again["step"], "≤", steps)


def measure_overhead(folder: Path, count: int) -> Iterator[Check]:
    """Measures which share of a run on the sample goes into its journal; each share is of one run."""
    case = Case("digits sample", folder)
    shares = []
    for index in range(count):
        case.run(f"out-{index}")
        spent = json.loads((folder / f"out-{index}" / "report.json").read_text("utf-8"))["seconds"]
        journal = sum(map(float, case.log(f"out-{index}", "seconds"))) + spent["journal"]
        shares.append(100 * journal / spent["total"])
    figure = f"share of a run that goes into its journal, %, median of {count}"
    yield Check("digits sample", figure, statistics.median(shares), "≤", 3)


def main() -> int:
    """Runs what is asked for, prints the table, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(SAMPLES), default=[], help="may be repeated")
    parser.add_argument("--kills", type=int, default=10, help="kills for each model")
    parser.add_argument("--overhead", type=int, default=0, metavar="N", help="measure N runs on the sample")
    parser.add_argument("--write", action="store_true", help="join the rows under benchmarks/results/")
    options = parser.parse_args()
    checks: list[Check] = []
    for name in filter(available, options.model or ([] if options.overhead else list(SAMPLES))):
        with tempfile.TemporaryDirectory() as folder:
            checks += kill_and_resume(Case(name, Path(folder)), options.kills)
    if options.overhead:
        with tempfile.TemporaryDirectory() as folder:
            checks += measure_overhead(Path(folder), options.overhead)
    print(table(checks))
    if options.write:
        write_joined("resume", checks)
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
