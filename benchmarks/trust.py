"""Runs that are stopped, killed, doubled, starved and repeated: what is left of each, and what a process keeps.

    python benchmarks/trust.py [--quick] [--write]

Everything is tried on the sample that is shipped: 20 signals and 20 kills at random moments (the seeds are 0 to 19),
two runs at once, a full disk at every call to the system that writes (`strace` injects it; without it that part is
skipped, and the tests have it at every step that Python takes), and 100 exports in one process. Exits 1 if a limit is
missed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from checks import Check, table
from results_files import write_results

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "samples" / "digits"
COMMAND = [sys.executable, "-m", "prox24_export", str(SAMPLE / "digits_vit.onnx")]
FAST = ["--calibration", str(SAMPLE / "calibration.npz"), "--samples", "64", "--method", "magnitude", "-q", "-o", "out"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WRITTEN = {"DEPLOY.md", "junit.xml", "model.onnx", "report.html", "report.json", "summary.md"}
CALLS = ("write", "pwrite64", "ftruncate", "fsync", "rename", "renameat2", "mkdir", "unlink", "rmdir", "unlinkat")


def start(folder: Path, *more: str, before: Sequence[str] = ()) -> "subprocess.Popen[str]":
    """Starts a run as a shell in the foreground does: no signal is ignored."""
    return subprocess.Popen(
        [*before, *COMMAND, *FAST, *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS],  # noqa: PLW1509 - one thread
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def is_whole(folder: Path) -> bool:
    """Whether a finished run stands in `out` with all that it lists: every file but the pages that it says failed."""
    out = folder / "out"
    if not (out / "report.json").is_file():
        return False
    report = json.loads((out / "report.json").read_text("utf-8"))
    expected = WRITTEN - {fault["stage"] for fault in report["faults"]}
    return set(report["files"]) == expected == {path.name for path in out.iterdir()}


def names(folder: Path) -> set[str]:
    """Names of everything in a folder."""
    return {path.name for path in folder.iterdir()}


def stopped(seconds: float, count: int) -> Iterator[Check]:
    """Signals at random moments of a run: it ends with 130 and leaves nothing but its journal, or it has finished."""
    wrong = finished = 0
    for seed in range(count):
        with tempfile.TemporaryDirectory() as name, start(Path(name)) as run:
            time.sleep(random.Random(seed).uniform(0.1, 1.1) * seconds)  # noqa: S311 - moments
            run.send_signal(SIGNALS[seed % len(SIGNALS)])
            _, said = run.communicate()
            left = names(Path(name))
            whole = run.returncode == 0 and left == {"out"} and is_whole(Path(name))
            clean = run.returncode == 130 and not left and said.endswith("Nothing was written.\n")
            clean |= run.returncode == 130 and left == {"out.journal"} and said.endswith("or delete out.journal.\n")
            finished += whole
            if not (whole or clean):
                wrong += 1
                print(f"seed {seed}: exit {run.returncode}, left {sorted(left)}, said {said!r}")
    yield Check("signals", f"of {count} at random moments neither 130 nor a finished run", wrong, "≤", 0)
    yield Check("signals", f"of {count} came before the end", count - finished, "≥", count // 4)


def killed(seconds: float, count: int) -> Iterator[Check]:
    """`kill -9` at random moments: after the next run nothing is left but its output."""
    wrong = partial = 0
    for seed in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with start(folder) as run:
                time.sleep(random.Random(seed).uniform(0.1, 1.1) * seconds)  # noqa: S311 - moments
                run.kill()
            partial += names(folder) not in (set(), {"out"})
            with start(folder, "--force") as again:
                said = again.communicate()
            if again.returncode or names(folder) != {"out"} or not is_whole(folder):
                wrong += 1
                print(f"seed {seed}: exit {again.returncode}, left {sorted(names(folder))}, said {said}")
    yield Check(
        "kill -9", f"of {count} at random moments whose next run fails, or leaves more than its output", wrong, "≤", 0
    )
    yield Check(
        "kill -9", f"of {count} left something for the next run to remove", partial, "≥", 1
    )  # most of a short run is imports


def doubled(count: int) -> Iterator[Check]:
    """Two runs started together into one folder: one succeeds, the other exits 2 without a finished stage."""
    wrong = 0
    for _ in range(count):
        with tempfile.TemporaryDirectory() as name:
            with start(Path(name)) as first, start(Path(name)) as second:
                ends = sorted((run.communicate()[1], run.returncode) for run in (first, second))
            codes = sorted(code for _, code in ends)
            told = [said for said, code in ends if code == 2]
            refused = len(told) == 1 and told[0].startswith("prox24-export: another run is writing")
            late = len(told) == 1 and "holds a finished run" in told[0]  # it began when the first had ended
            if codes != [0, 2] or not (refused or late) or names(Path(name)) != {"out"}:
                wrong += 1
                print(ends, names(Path(name)))
    yield Check("two at once", f"of {count} pairs without exactly one success and one exit 2", wrong, "≤", 0)


def starved(step: int) -> Iterator[Check]:
    """No space at one call to the system that writes, each in turn: the old run or the new one stands, whole."""
    if shutil.which("strace") is None:
        print("no strace: the system's own calls are not refused")
        return
    wrong = tried = new = 0
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as beside:
        folder, trace = Path(name), Path(beside) / "trace"
        with start(folder) as run:
            run.communicate()
        earlier = content(folder / "out")
        for call in CALLS:
            for at in range(1, 1000, step):
                how = ["-e", f"trace={call}", "-e", f"inject={call}:error=ENOSPC:when={at}"]
                with start(folder, "--force", before=["strace", "-f", "-qq", "-o", str(trace), *how]) as run:
                    said = run.communicate()[1]
                if "INJECTED" not in trace.read_text("utf-8", errors="replace"):
                    earlier = content(folder / "out")
                    break
                tried += 1
                now = content(folder / "out")
                new += now != earlier
                rest = names(folder) - {"out", "out-2"}
                ended_well = (run.returncode in {0, 1} or "is complete." in said) and is_whole(folder)
                if not (now == earlier or ended_well) or (rest and call not in {"unlink", "rmdir", "unlinkat"}):
                    wrong += 1
                    print(f"{call} {at}: exit {run.returncode}, {sorted(names(folder))}, {said!r}")
                shutil.rmtree(folder / "out-2", ignore_errors=True)  # a run that could not take its place
                with start(folder, "--force") as run:  # removes what a clean-up could not
                    run.communicate()
                if run.returncode or names(folder) != {"out"} or not is_whole(folder):
                    wrong += 1
                    print(f"after {call} {at}: exit {run.returncode}, {sorted(names(folder))}")
                earlier = content(folder / "out")
    every = "each call" if step == 1 else f"every {step}th call of a kind"
    yield Check(
        "full disk", f"{every}: of {tried} runs that leave neither the old run nor the new one whole", wrong, "≤", 0
    )
    yield Check("full disk", f"{every}: of {tried} that ended well all the same", new)


def content(folder: Path) -> dict[str, bytes]:
    """Bytes of every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def repeated(count: int) -> Iterator[Check]:
    """Exports in one process: what it keeps after the twentieth."""
    code = f"""
import json, os, tempfile
from pathlib import Path
from prox24_export import Settings, export
from prox24_export.facts.machine import measure_resident_mb, return_free_memory
seen = []
for index in range({count}):
    with tempfile.TemporaryDirectory() as name:
        export({str(SAMPLE / "digits_vit.onnx")!r}, {str(SAMPLE / "calibration.npz")!r}, Path(name) / "out",
               settings=Settings(samples=64, refine_minutes=0.05))
    return_free_memory()
    seen.append((measure_resident_mb(), len(os.listdir("/proc/self/fd"))))
print(json.dumps(seen))
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    seen = json.loads(run.stdout)
    settled = min(20, count // 2)
    memory = [megabytes for megabytes, _ in seen]
    handles = [open_files for _, open_files in seen]
    growth = 100 * (max(memory[settled:]) / memory[settled - 1] - 1)
    yield Check("one process", f"resident memory after export {settled} to {count}: growth, %", growth, "≤", 5)
    yield Check("one process", "open files: growth", handles[-1] - handles[settled - 1], "≤", 0)


def main() -> int:
    """Runs all parts, prints the table, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--write", action="store_true", help="put the table under benchmarks/results/")
    options = parser.parse_args()
    count = 3 if options.quick else 20
    with tempfile.TemporaryDirectory() as name:
        with start(Path(name)) as run:  # compiles what is not compiled yet
            run.communicate()
        began = time.perf_counter()
        with start(Path(name), "--force") as run:
            run.communicate()
        seconds = time.perf_counter() - began
    checks = [*stopped(seconds, count), *killed(seconds, count), *doubled(count // 3)]
    checks += [*starved(9 if options.quick else 1), *repeated(20 if options.quick else 100)]
    print(table(checks))
    if options.write:
        write_results("trust", [asdict(check) for check in checks], table(checks))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
