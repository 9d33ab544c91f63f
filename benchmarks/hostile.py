"""Thousands of bad inputs: whether each is refused in one sentence, with the right code, and nothing left behind.

    python benchmarks/hostile.py [--quick] [--write] [--work FOLDER] [--jobs N] [--only CLASS/INDEX --keep]

Every input is made by a seed, its class and its number, and is tried once; inputs that turn out to be the same are left
out. Most are read by a copy of a process that has imported the program, which takes a few hundredths of a second, and
some 20 of each class by `python -m prox24_export`. With `--work`, a later call goes on where an earlier one stopped.
Exits 1 if anything is wrong, and says how to try it again.
"""

import argparse
import gc
import json
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from hostile_inputs.case import VALID, Case
from hostile_inputs.classes import CLASSES, load_libraries
from hostile_inputs.trial import FAULTS, Result, Trial, end_trial, is_overdue, prepare_trial, remove_tree, start_trial
from results_files import write_results

JOURNAL = "journal.jsonl"
OWN = 28  # of each class are started as a user starts them
QUICK = 13  # of each class
SHOWN = 40  # faults that are told in full


def list_cases(*, each: int | None = None, only: str | None = None) -> Iterator[tuple[Case, bool]]:
    """Yields the cases, the classes in turn, and whether each is started as a user starts it.

    Args:
        each: How many of each class; None for all.
        only: The label of the only case; None for no such choice.
    """
    if only:
        kind, _, index = only.partition("/")
        yield CLASSES[kind].make(int(index)), False
        return
    longest = max(group.count for group in CLASSES.values())
    for step in range(longest):
        for group in CLASSES.values():
            before, index = ((at * group.count) // longest for at in (step, step + 1))
            for number in range(before, index):
                if each is None or number < each:
                    yield group.make(number), each is None and number % (group.count // OWN) == 0


def read_journal(folder: Path) -> dict[str, Result]:
    """Reads what an earlier run in this folder has tried, by label; a torn last line is left out."""
    file = folder / JOURNAL
    found = {}
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            result = Result(**json.loads(line))
        except ValueError:
            continue
        found[result.label] = result
    return found


def run_all(cases: Iterator[tuple[Case, bool]], folder: Path, jobs: int, *, keep: bool) -> list[Result]:
    """Runs the cases that the journal does not have, at most `jobs` at once."""
    known = read_journal(folder)
    seen = {result.digest: result.label for result in known.values()}
    wanted: set[str] = set()
    running: dict[int, Trial] = {}
    free = list(range(jobs))
    places = {number: folder / f"trial-{number}" for number in free}
    with (folder / JOURNAL).open("a", encoding="utf-8") as journal:

        def note(result: Result) -> None:
            known[result.label] = result
            journal.write(json.dumps(asdict(result)) + "\n")
            journal.flush()

        def finish() -> None:
            trial, status, used = wait_for_one(running)
            note(end_trial(trial, status, used))
            number = next(number for number, place in places.items() if place == trial.place)
            free.append(number)
            if not keep:
                remove_tree(trial.place)

        for case, own in cases:
            wanted.add(case.label)
            if case.label in known:
                continue
            if not free:
                finish()
            number = free.pop()
            trial = prepare_trial(case, places[number], own=own)
            result = trial.result
            if result.digest in seen:
                result.same_as = seen[result.digest]
                note(result)
                free.append(number)
                continue
            seen[result.digest] = case.label
            start_trial(trial)
            running[trial.process] = trial
        while running:
            finish()
    return [result for label, result in known.items() if label in wanted and not result.same_as]


def wait_for_one(running: dict[int, Trial]) -> tuple[Trial, int, "os.struct_rusage"]:  # type: ignore[name-defined]
    """Waits until one of the processes has ended; one that waits for ever is killed."""
    while True:
        for process, trial in running.items():
            ended, status, used = os.wait4(process, os.WNOHANG)
            if ended:
                return running.pop(process), status, used
            if is_overdue(trial):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def tabulate(results: Sequence[Result]) -> tuple[list[dict[str, object]], str]:
    """The counts of each class, as rows and as Markdown."""
    head = ["class", "tried", "own process", "refused", "still valid", *FAULTS.values()]
    rows = []
    for kind in [*CLASSES, "all"]:
        group = [result for result in results if kind in {"all", result.label.partition("/")[0]}]
        valid = sum(result.code in VALID for result in group)
        faults = Counter(fault for result in group for fault in result.faults)
        counts = [len(group), sum(result.own for result in group), len(group) - valid, valid]
        rows.append(dict(zip(head, [kind, *counts, *(faults[name] for name in FAULTS)], strict=True)))
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(map(str, row.values())) for row in rows)]
    return rows, "".join(f"| {line} |\n" for line in lines)


def tell_faults(results: Sequence[Result], folder: Path) -> None:
    """Prints the first faults, and how each is tried again."""
    wrong = [result for result in results if result.faults]
    for result in wrong[:SHOWN]:
        print(f"{result.label} ({result.name}): {', '.join(result.faults)}; exit {result.code}, {result.seconds} s")
        print(f"  prox24-export {shlex.join(result.command)[:200]}\n  {result.said[-300:]!r}")
        print(f"  python benchmarks/hostile.py --only {result.label} --keep --work FOLDER")
    print(f"{len(wrong)} of {len(results)} are wrong; the journal is {folder / JOURNAL}" if wrong else "No fault.")


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} of each class")
    parser.add_argument("--each", type=int, help="so many of each class")
    parser.add_argument("--write", action="store_true", help="put the table under benchmarks/results/")
    parser.add_argument("--work", type=Path, help="a folder for the journal, where a stopped run goes on")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--only", help="one case, as CLASS/INDEX")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the last trials there")
    return parser.parse_args()


def main() -> int:
    """Runs what the options say, prints the table, and returns the exit code."""
    options = parse_options()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.work or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        load_libraries()
        warnings.simplefilter("ignore")  # of what is made on purpose
        gc.collect()
        gc.freeze()  # what is never collected is never copied
        cases = list_cases(each=QUICK if options.quick else options.each, only=options.only)
        began = time.monotonic()
        results = run_all(cases, folder, 1 if options.only else options.jobs, keep=options.keep)
        rows, table = tabulate(results)
        print(table)
        tell_faults(results, folder)
        if options.write:
            spent = {
                "most_seconds": max(result.seconds for result in results),
                "most_megabytes": max(result.megabytes for result in results),
            }
            limits = "The slowest took {most_seconds:.0f} s of the processor, the largest {most_megabytes} MB.\n"
            write_results("hostile", rows, f"{table}\n{limits.format(**spent)}", facts=spent)
        print(f"{time.monotonic() - began:.0f} s")
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())
