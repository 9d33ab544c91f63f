"""Feeds mutated files of strangers to the readers, each target in a process of its own.

    python -m fuzz SECONDS [TARGET…] [--seed N] [--write [--add]]

The targets run beside each other for so many seconds. Inputs that reach new lines are kept under build/fuzz, and the
next run begins with them. Exits with 1 where there is a finding, and says where its input is. `--write` puts what was
done under benchmarks/results; with `--add`, inputs and time of earlier runs without a finding are added to it.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.results_files import RESULTS, write_results

ROOT = Path(__file__).resolve().parent.parent
CORPUS, KEPT = ROOT / "fuzz" / "corpus", ROOT / "build" / "fuzz"
TARGETS = {"open_model": 1 << 15, "read_samples": 1 << 16, "read_pictures": 1 << 14, "read_engine_log": 1 << 14}
"""The targets, and the longest input of each, in bytes."""
PATIENCE = 600  # seconds by the clock after which an input is given up; a target measures processor time itself
MEMORY = 3000  # megabytes of a whole process, PyTorch and ONNX Runtime included


@dataclass(frozen=True)
class Outcome:
    """What became of a target.

    Attributes:
        target: Its name.
        executions: How many inputs were tried.
        seconds: The processor time that it took, in seconds.
        coverage: The number of branches that inputs have reached; None where the engine has not told.
        corpus: The number of committed inputs.
        kept: The number of inputs that are kept because each reaches something new.
        findings: The files of inputs that are findings.
        seed: The seed of the run.
    """

    target: str
    executions: int
    seconds: float
    coverage: int | None
    corpus: int
    kept: int
    findings: tuple[str, ...]
    seed: int


def main(arguments: list[str] | None = None) -> int:
    """Runs targets and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Feeds mutated files to the readers.")
    parser.add_argument("seconds", type=int, help="how long each target runs, by the clock")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; by default all")
    parser.add_argument("--seed", type=int, default=1, help="decides which mutations are drawn")
    parser.add_argument("--write", action="store_true", help="write the outcome under benchmarks/results")
    parser.add_argument("--add", action="store_true", help="add what was done to what stands there, without a finding")
    given = parser.parse_args(arguments)
    names = given.targets or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}. Expected of {', '.join(TARGETS)}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either signal ends the run, and what was done counts
    with tempfile.TemporaryDirectory() as folder:
        running = {name: _start(name, given.seconds, given.seed, Path(folder)) for name in names}
        try:
            for process in running.values():
                process.wait()
        except KeyboardInterrupt:
            for process in running.values():
                process.send_signal(signal.SIGUSR1)  # the engine's own way to end
                process.wait()
    outcomes = [_read_outcome(name, given.seed) for name in names]
    table = tabulate(outcomes)
    print(table)
    for name, process in running.items():
        if process.returncode and not _list_findings(name):
            print((KEPT / name / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:])
    if given.write:
        _write(outcomes, add=given.add)
    return int(any(outcome.findings for outcome in outcomes) or any(one.returncode for one in running.values()))


def _start(name: str, seconds: int, seed: int, scratch: Path) -> subprocess.Popen[bytes]:
    """Starts a target in a process of its own, whose output goes into a file."""
    kept = KEPT / name
    (kept / "corpus").mkdir(parents=True, exist_ok=True)
    for old in (kept / "state.json", *_list_findings(name)):
        old.unlink(missing_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={TARGETS[name]}",
        f"-timeout={PATIENCE}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={kept}/",
        "-report_slow_units=1000000",
    ]
    folders = [str(kept / "corpus"), str(CORPUS / name)]
    command = [sys.executable, "-m", "fuzz.worker", name, str(kept / "state.json"), *options, *folders]
    environment = os.environ | {"TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "PYTHONPATH": _extend_path()}
    with (kept / "log.txt").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)  # noqa: S603 - ourselves


def _extend_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _list_findings(name: str) -> list[Path]:
    """Lists the inputs that the engine has written because they are findings."""
    return sorted(file for kind in ("crash", "timeout", "oom", "leak") for file in (KEPT / name).glob(f"{kind}-*"))


def _read_outcome(name: str, seed: int) -> Outcome:
    kept = KEPT / name
    state = kept / "state.json"
    done: Mapping[str, float] = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    log = (kept / "log.txt").read_text(encoding="utf-8", errors="replace")
    reached = re.findall(r"^#\d+\s.*\bcov: (\d+)", log, re.MULTILINE)
    return Outcome(
        name,
        int(done.get("executions", 0)),
        done.get("seconds", 0.0),
        int(reached[-1]) if reached else None,
        sum(1 for _ in (CORPUS / name).iterdir()),
        sum(1 for _ in (kept / "corpus").iterdir()),
        tuple(str(file.relative_to(ROOT)) for file in _list_findings(name)),
        seed,
    )


def join(before: Outcome | None, now: Outcome) -> Outcome:
    """Adds the inputs and the time of an earlier run to those of this one, where that run had no finding."""
    if before is None or before.findings:
        return now
    return replace(now, executions=before.executions + now.executions, seconds=before.seconds + now.seconds)


def tabulate(outcomes: list[Outcome]) -> str:
    """Writes the outcomes as Markdown."""
    return "\n".join(_list_lines(outcomes)) + "\n"


def _list_lines(outcomes: list[Outcome]) -> Iterator[str]:
    heads = "target", "inputs tried", "processor time", "branches reached", "committed inputs", "kept inputs"
    yield f"| {' | '.join(heads)} | findings | seed |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in outcomes:
        reached = "not told" if one.coverage is None else f"{one.coverage:,}"
        found = "<br>".join(one.findings) or "0"
        done = f"{one.executions:,} | {one.seconds / 60:.1f} min | {reached}"
        yield f"| `{one.target}` | {done} | {one.corpus} | {one.kept} | {found} | {one.seed} |"


def _write(outcomes: list[Outcome], *, add: bool) -> None:
    """Writes the outcomes under benchmarks/results; targets that did not run keep what stands there."""
    results = RESULTS / "fuzz.json"
    before = json.loads(results.read_text(encoding="utf-8"))["rows"] if results.exists() else []
    rows = {row["target"]: Outcome(**row | {"findings": tuple(row["findings"])}) for row in before}
    rows |= {outcome.target: join(rows.get(outcome.target) if add else None, outcome) for outcome in outcomes}
    merged = [rows[name] for name in TARGETS if name in rows]
    write_results("fuzz", [asdict(one) for one in merged], tabulate(merged), facts={"atheris": version("atheris")})


if __name__ == "__main__":
    sys.exit(main())
