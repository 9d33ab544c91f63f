"""One trial: the command reads a bad input in a process of its own, and what it left behind is judged."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hostile_inputs.case import VALID, Case, count_bytes, digest_case, take_snapshot
from hostile_inputs.injection import inject
from trust import is_whole

ROOT = Path(__file__).resolve().parents[2]
SECONDS, IDLE = 60, 40  # of the processor; of the clock without work, where a command waits for ever
SAFETY = 12 << 30  # bytes of data that a process may have at all: this machine's other work must go on
MOST_MEMORY, SMALL = 2 << 30, 1 << 20  # bytes: of memory, for inputs below the second
CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SENTENCE = re.compile(r"prox24-export: [^\n]+\n")
STARTER = (
    "import runpy, sys; from hostile_inputs.injection import inject; "
    "inject(sys.argv.pop(1)); runpy.run_module('prox24_export', run_name='__main__', alter_sys=True)"
)


@dataclass
class Result:
    """How a trial ended.

    Attributes:
        label: Of the case.
        name: Of the case.
        command: Of the case.
        digest: Of the input and the command.
        code: The exit code; that of a signal is negative.
        seconds: Of the processor.
        megabytes: The largest resident size.
        own: Whether it was `python -m prox24_export`, and not a copy of a process that had imported it.
        said: The end of stderr.
        faults: What must not be: words of `FAULTS`.
        same_as: The label of the case that is the same input; then nothing was tried.
    """

    label: str
    name: str
    command: list[str]
    digest: str
    code: int = 0
    seconds: float = 0.0
    megabytes: int = 0
    own: bool = False
    said: str = ""
    faults: list[str] = field(default_factory=list)
    same_as: str = ""


FAULTS = {
    "traceback": "tracebacks",
    "code": "wrong codes",
    "changed": "changed inputs",
    "leftover": "leftovers",
    "torn": "torn outputs",
    "seconds": f"over {SECONDS} s",
    "memory": "over 2 GB",
    "control": "control characters",
    "sentence": "not one sentence",
}


@dataclass
class Trial:
    """A trial that has begun.

    Attributes:
        case: What is tried.
        place: Its folder, with the input, the folder for temporary files, and what the command printed.
        own: Whether it is started as a user starts it.
        before: The input, as it was written.
        process: Its number.
        worked: When the process was last seen to have worked, by the clock, and how long it had by then.
        was_idle: Whether it waited for too long.
    """

    case: Case
    place: Path
    own: bool
    before: dict[str, str]
    process: int = 0
    worked: tuple[float, float] = (0.0, 0.0)
    was_idle: bool = False

    @property
    def result(self) -> Result:
        """What is known before the end."""
        return Result(
            self.case.label, self.case.name, list(self.case.command), digest_case(self.case, self.before), own=self.own
        )


def prepare_trial(case: Case, place: Path, *, own: bool) -> Trial:
    """Writes the input into a fresh folder."""
    if place.exists():
        remove_tree(place)
    for name in ("in", "tmp"):
        (place / name).mkdir(parents=True)
    case.build(place / "in")
    return Trial(case, place, own, take_snapshot(place / "in"))


def start_trial(trial: Trial) -> None:
    """Starts the command on the input that was written."""
    trial.worked = (time.monotonic(), 0.0)
    sys.stdout.flush()
    if trial.own:
        trial.process = _start_process(trial)
        return
    trial.process = os.fork()
    if not trial.process:
        code = 1
        try:
            code = _run_copy(trial)
        finally:
            os._exit(code)


def end_trial(trial: Trial, status: int, used: resource.struct_rusage) -> Result:
    """Judges what an ended process has left."""
    result = trial.result
    result.code = os.waitstatus_to_exitcode(status)
    result.seconds = round(used.ru_utime + used.ru_stime, 2)
    result.megabytes = used.ru_maxrss >> 10
    stdout, stderr = ((trial.place / name).read_bytes().decode("utf-8", "replace") for name in ("stdout", "stderr"))
    result.said = stderr[-600:]
    result.faults = list(_find_faults(trial, result, stdout, stderr))
    return result


def remove_tree(place: Path) -> None:
    """Removes a folder, also where a case has taken permissions away."""
    for parent, _, _ in os.walk(place):
        with suppress(OSError):
            os.chmod(parent, 0o700)  # noqa: PTH101 - names that are no UTF-8
    shutil.rmtree(os.fsencode(place))


def is_overdue(trial: Trial) -> bool:
    """Whether a process waits for something that never comes."""
    with suppress(OSError):
        used = sum(map(int, Path(f"/proc/{trial.process}/stat").read_text().rpartition(")")[2].split()[11:13]))
        if used != trial.worked[1]:
            trial.worked = (time.monotonic(), used)
    trial.was_idle = time.monotonic() - trial.worked[0] > IDLE
    return trial.was_idle


def _find_faults(trial: Trial, result: Result, stdout: str, stderr: str) -> Iterator[str]:
    case, out = trial.case, f"{stdout}{stderr}"
    refused = result.code in case.codes
    if "Traceback (most recent call last)" in out:
        yield "traceback"
    told = refused or (case.may_be_valid and result.code in VALID)
    if not told or ("internal error" in stderr and not _may_be_internal(case)):
        yield "code"
    elif refused and (stdout or not SENTENCE.fullmatch(stderr)):
        yield "sentence"
    if CONTROLS.search(out):
        yield "control"
    now = take_snapshot(trial.place / "in")
    outputs = _name_outputs(case) if result.code in VALID else set()
    if any(now.get(name) != what for name, what in trial.before.items() if not _is_output(name, outputs)):
        yield "changed"
    new = {name for name in now.keys() - trial.before.keys() if not _is_output(name, outputs)}
    if (new and not _may_be_left(case, new, stderr)) or any((trial.place / "tmp").iterdir()):
        yield "leftover"
    if case.inject and result.code in VALID and "-o" in case.command and not is_whole(trial.place / "in"):
        yield "torn"
    if result.seconds > SECONDS or trial.was_idle:
        yield "seconds"
    if result.megabytes << 20 > MOST_MEMORY and count_bytes(trial.place / "in") < SMALL:
        yield "memory"


def _may_be_left(case: Case, new: set[str], stderr: str) -> bool:
    """Whether what is left is a finished run that is named, or what the next run removes where removing it failed."""
    marked = all(name.startswith(("out.lock", "out.unfinished")) for name in new)
    removing = case.inject.startswith(("os.r", "os.unlink", "os.scandir", "os.listdir", "open", "limit:files"))
    return bool(case.inject) and (
        (marked and removing) or "inished run is in" in stderr or "out is complete." in stderr
    )


def _may_be_internal(case: Case) -> bool:
    """Whether an error of Python's own was injected, which no file can cause."""
    return any(name in case.inject for name in ("MemoryError", "RuntimeError"))


def _name_outputs(case: Case) -> set[str]:
    """Names the folders that a command which succeeds may write: an export's own, or what `report` makes again."""
    if case.command[0] == "report":
        return {case.command[1]}
    named = {case.command[place + 1] for place, word in enumerate(case.command[:-1]) if word == "-o"}
    return {"out", *named, *(word.removeprefix("--out=") for word in case.command if word.startswith("--out="))}


def _is_output(name: str, outputs: set[str]) -> bool:
    return name.partition("/")[0] in outputs and not name.endswith("good/report.json")


def _make_environment(trial: Trial) -> dict[str, str]:
    return {
        "TMPDIR": str(trial.place / "tmp"),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", ""))),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
    resource.setrlimit(resource.RLIMIT_DATA, (SAFETY, SAFETY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _start_process(trial: Trial) -> int:
    start = ("-c", STARTER, trial.case.inject) if trial.case.inject else ("-m", "prox24_export")
    with (trial.place / "stdout").open("wb") as out, (trial.place / "stderr").open("wb") as error:
        process = subprocess.Popen(
            [sys.executable, *start, *trial.case.command],
            cwd=trial.place / "in",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=error,
            env=os.environ | _make_environment(trial),
            preexec_fn=_limit,  # noqa: PLW1509 - one thread
            start_new_session=True,
        )
    process.returncode = 0  # it is waited for by its number, and by nobody else
    return process.pid


def _run_copy(trial: Trial) -> int:
    """Runs the command in a copy of this process, which has imported everything, as `python -m` runs it."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(trial.place / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(_make_environment(trial))
    tempfile.tempdir = None
    os.chdir(trial.place / "in")
    sys.argv = ["prox24-export", *trial.case.command]
    sys.path[0] = ""
    _limit()
    from prox24_export import __main__  # noqa: PLC0415 - imported long before

    try:
        inject(trial.case.inject)
        __main__.main()
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:  # noqa: BLE001 - what the interpreter prints
        traceback.print_exc()
        return 1
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    return 0
