"""Runs that are killed, and go on to the same bytes from what their journal holds."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prox24_export import InputError, Settings, export, plan
from prox24_export.output.records import Records
from prox24_export.stages import journal
from tests.command import network, samples

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "digits"
KILLS = 20
# Libraries are loaded once; each run is a child, which is killed while it writes its n-th record, or after it has.
RUNS = """\
import os, signal, sys
from pathlib import Path
import jinja2, numba, onnx, onnx_ir, onnxruntime, rich, safetensors.torch, torch.fx, torch.export
from prox24_export import cli

def run(at, early, out):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    from prox24_export.output.records import Records
    from prox24_export.stages import journal
    journal.SHARE, journal.WITHIN = 1e9, float("inf")  # every epoch is saved, and nothing within one
    put, log = Records.put, Path(f"{out}.log").open("a", encoding="utf-8")

    def killed(records, key, ending, write):
        nonlocal at
        at -= 1
        print(key, file=log, flush=True)

        def write_and_die(file):
            write(file)
            if at == 0 and early:
                os.kill(os.getpid(), signal.SIGKILL)

        put(records, key, ending, write_and_die)
        if at == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Records.put = killed
    code = cli.main([*sys.argv[1:], "-o", out])
    sys.stdout.flush()
    os._exit(code)

for line in sys.stdin:
    at, early, out = line.split()
    print(run(int(at), early == "early", out), file=sys.stderr, flush=True)
"""
OPTIONS = ("--samples", "48", "--effort", "fast", "--refine", "weights", "--refine-minutes", "60", "-q")


@dataclass(frozen=True)
class Runs:
    """Runs of the sample, started one after the other."""

    process: "subprocess.Popen[str]"

    def __call__(self, at: int, when: str, out: str) -> int:
        """Starts a run that is killed at its n-th record, never where that is 0; returns how it ended."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.write(f"{at} {when} {out}\n")
        self.process.stdin.flush()
        lines = iter(self.process.stderr.readline, "")
        return next(int(line) for line in lines if line.strip().isdecimal())


@pytest.fixture
def sample_runs(tmp_path: Path) -> Iterator[Runs]:
    arguments = [str(SAMPLE / "digits_vit.onnx"), "--calibration", str(SAMPLE / "calibration.npz"), *OPTIONS]
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS, *arguments],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        yield Runs(process)
        assert process.stdin is not None
        process.stdin.close()


def test_a_run_that_is_killed_twenty_times_ends_with_the_same_bytes_and_does_nothing_twice(
    sample_runs: Runs, tmp_path: Path
) -> None:
    assert sample_runs(0, "never", "whole") == 0
    done = (tmp_path / "whole.log").read_text("utf-8").split()
    assert {key.split("-")[0] for key in done} == {"run", "channels", "fit", "refinement"}
    step = len(done) // (KILLS // 2)
    for kill in range(KILLS):  # while the next record is written, and after some have been
        when, at = ("early", 1) if kill % 2 else ("late", step)
        assert sample_runs(at, when, "killed") == signal.SIGKILL
    assert sample_runs(0, "never", "killed") == 0
    again = Counter((tmp_path / "killed.log").read_text("utf-8").split()) - Counter(done)
    assert sum(again.values()) == KILLS // 2  # what was being written
    assert (tmp_path / "killed" / "model.onnx").read_bytes() == (tmp_path / "whole" / "model.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "killed.log", "whole", "whole.log"]


class Fault(BaseException):
    """Ends a run as a kill would, with the journal as it is then."""


SETTINGS = Settings(refine="weights", refine_minutes=60, effort="fast")


@dataclass
class Small:
    """A small model, its samples, and the records that runs on them write."""

    folder: Path
    written: list[str]
    fail_at: int = 0

    def export(self, settings: Settings = SETTINGS, out: str = "out", count: int = 60) -> bytes:
        """The bytes of the sparse model."""
        report = export(self.folder / "net.onnx", samples(self.folder, count), self.folder / out, settings=settings)
        assert not report.faults
        return (self.folder / out / "model.onnx").read_bytes()

    def interrupt(self, at: int, settings: Settings = SETTINGS) -> None:
        """Runs until `at` records are written."""
        self.fail_at = len(self.written) + at
        with pytest.raises(Fault):
            self.export(settings)
        self.fail_at = 0

    @property
    def left(self) -> set[str]:
        """What stands beside the inputs."""
        return {path.name for path in self.folder.iterdir()} - {"net.onnx", "data.npz"}

    def record(self, kind: str) -> Path:
        """A record of the interrupted run."""
        (found,) = (self.folder / "out.journal").glob(f"{kind}.*")
        return found


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    network(tmp_path)
    case, put = Small(tmp_path, []), Records.put

    def note(records: Records, key: str, ending: str, write: Callable[[Path], Any]) -> None:
        put(records, key, ending, write)
        case.written.append(key.split("-", maxsplit=1)[0])
        if len(case.written) == case.fail_at:
            raise Fault

    monkeypatch.setattr(Records, "put", note)
    monkeypatch.setattr(journal, "SHARE", 1e9)
    return case


def test_nothing_is_left_after_success_and_what_is_recorded_is_not_done_again(small: Small) -> None:
    whole = small.export(out="whole")
    kinds = small.written.copy()
    assert kinds[:4] == ["run", "channels", "fit", "fit"]
    assert small.left == {"whole"}
    for at in range(2, len(kinds) + 1):
        small.written.clear()
        small.interrupt(at)
        assert small.left == {"whole", "out.journal"}
        assert small.export() == whole
        assert Counter(small.written) == Counter(kinds)
        assert small.left == {"whole", "out"}
        shutil.rmtree(small.folder / "out")


@pytest.mark.parametrize("damage", ["flipped", "cut short", "empty"])
@pytest.mark.parametrize("kind", ["run", "channels", "fit-*-00000", "fit-*-00001", "refinement-*"])
def test_a_damaged_record_is_found_and_done_again(kind: str, damage: str, small: Small) -> None:
    whole = small.export(out="whole")
    small.interrupt(6)
    file = small.record(kind)
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    damaged: dict[str, bytes] = {"flipped": bytes(flipped), "cut short": content[:-1], "empty": b""}
    file.write_bytes(damaged[damage])
    small.written.clear()
    assert small.export() == whole
    assert kind.split("-", maxsplit=1)[0] in small.written
    assert ("channels" in small.written) == (kind in {"run", "channels"})


@pytest.mark.parametrize("settings", [Settings(method="magnitude", permute="no"), Settings(method="prox-model")])
def test_every_method_goes_on(settings: Settings, small: Small) -> None:
    whole = small.export(settings, "whole")
    kinds = small.written.copy()
    small.written.clear()
    for _ in range(len(kinds) // 2):
        small.interrupt(2, settings)
    assert small.export(settings) == whole
    assert Counter(small.written) == Counter(kinds)


def test_the_second_way_through_the_layers_has_records_of_its_own(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.passes.refine.part.improves", lambda *_: False)
    whole = small.export(out="whole")
    kinds = small.written.copy()
    assert kinds[-2:] == ["all", "all"]
    small.written.clear()
    small.interrupt(len(kinds) - 1)
    assert small.export() == whole
    assert Counter(small.written) == Counter(kinds)


def test_a_journal_of_another_run_is_refused_and_named(small: Small) -> None:
    small.interrupt(3)
    before = sorted((small.folder / "out.journal").iterdir())
    with pytest.raises(InputError, match=r"--effort was fast and is default\. Give .* start anew with --no-resume, or"):
        small.export(Settings(refine="weights", refine_minutes=60))
    with pytest.raises(InputError, match="the calibration samples changed; the evaluation samples changed"):
        small.export(count=61)
    with pytest.raises(InputError, match="--effort was fast and is default"):
        plan(small.folder / "net.onnx", small.folder / "data.npz", small.folder / "out")
    assert sorted((small.folder / "out.journal").iterdir()) == before
    assert small.left == {"out.journal"}


def test_no_resume_and_force_start_anew(small: Small) -> None:
    whole = small.export(out="whole")
    kinds = small.written.copy()
    for anew in (Settings(**vars(SETTINGS) | {"no_resume": True}), Settings(**vars(SETTINGS) | {"force": True})):
        small.interrupt(4)
        small.written.clear()
        assert small.export(anew) == whole
        assert small.written == kinds
        assert small.left == {"whole", "out"}
        shutil.rmtree(small.folder / "out")


def test_a_run_that_replaces_another_keeps_no_journal_since_none_could_go_on_with_it(small: Small) -> None:
    whole = small.export()
    small.written.clear()
    assert small.export(Settings(**vars(SETTINGS) | {"force": True})) == whole
    assert small.written == []
    assert small.left == {"out"}


def test_a_journal_that_a_finished_run_left_when_it_was_killed_is_removed_by_the_next(small: Small) -> None:
    small.export()
    (small.folder / "out.lock").write_text("prox24-export machine 1\n", "utf-8")
    Records(small.folder / "out.journal").put("run", "json", lambda file: file.write_text("{}", "utf-8"))
    with pytest.raises(InputError, match="holds a finished run"):
        small.export()
    assert small.left == {"out"}


@pytest.mark.parametrize("changed", [False, True])
def test_what_is_unsuitable_once_layers_are_solved_costs_none_of_them_unless_the_model_changed(
    changed: bool, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, layerwise = small.folder / "net.onnx", Settings(refine="no", permute="no", effort="fast")

    def refuse(*_: object) -> None:
        if changed:
            model.write_bytes(model.read_bytes() + b"\0")
        raise InputError("it is not suitable.")

    with monkeypatch.context() as patched:
        patched.setattr("prox24_export.pipeline.write_model", refuse)
        with pytest.raises(InputError, match="not suitable"):
            small.export(layerwise)
    assert small.left == (set() if changed else {"out.journal"})
    small.written.clear()
    if not changed:
        small.export(layerwise)
        assert small.written == []


def test_a_disk_that_takes_no_record_costs_the_journal_and_not_the_run(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small.export(out="whole")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Records, "put", full)
    report = export(small.folder / "net.onnx", small.folder / "data.npz", small.folder / "out", settings=SETTINGS)
    assert report.warnings[-1].startswith("The journal could not be written: No space left on device.")
    assert (small.folder / "out" / "model.onnx").read_bytes() == whole


def test_a_plan_says_what_is_left(small: Small) -> None:
    def planned() -> Any:
        return plan(small.folder / "net.onnx", small.folder / "data.npz", small.folder / "out", settings=SETTINGS)

    samples(small.folder, 60)
    assert planned().resumed is None
    small.interrupt(3)
    found = planned().resumed
    assert (found.layers, found.total, found.permuted, found.epochs) == ({"MatMul:a"}, 2, True, 0)
    small.interrupt(3)
    found = planned().resumed
    assert (found.layers, found.epochs) == ({"MatMul:a", "MatMul:y"}, 1)
    assert small.left == {"out.journal"}
