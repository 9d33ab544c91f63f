"""A disk that fails at any one step of a run: the old run or the new one stands whole, and nothing else is left."""

import errno
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prox24_export import Settings, export
from prox24_export.errors import Prox24Error
from prox24_export.output.manifest import PAGES, REPORT
from prox24_export.results.reader import load_report
from tests.command import network, samples, snapshot

MAGNITUDE = Settings(method="magnitude", force=True)
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}


class FailingDisk:
    """Counts what a process asks a disk to write below a folder, and refuses the step with a given number."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.count, self.fails_at = 0, 0
        self.refused = ""

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        """Sees every file that Python opens, makes, renames or removes."""
        if self.folder is not None and self._writes(event, arguments):
            self.step(f"{event} {arguments[0]}")

    def step(self, what: str) -> None:
        self.count += 1
        if self.count == self.fails_at:
            self.refused = what
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)

    def _writes(self, event: str, arguments: tuple[object, ...]) -> bool:
        place = arguments[0] if arguments else None
        if not isinstance(place, (str, bytes, os.PathLike)) or not os.fsdecode(place).startswith(str(self.folder)):
            return False
        if event == "open":
            flags = arguments[2]
            return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        return event in WRITES


DISK = FailingDisk()
sys.addaudithook(DISK.audit)  # which stays, and does nothing where no folder is watched


@contextmanager
def failing(folder: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingDisk]:
    sync: Callable[[int], None] = os.fsync

    def fsync(handle: int) -> None:
        DISK.step("fsync")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        DISK.folder, DISK.count, DISK.fails_at, DISK.refused = folder, 0, at, ""
        try:
            yield DISK
        finally:
            DISK.folder = None


def restore(folder: Path, files: dict[str, bytes | None]) -> None:
    shutil.rmtree(folder / "out")
    for name, content in files.items():
        if name.startswith("out"):
            (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)


@pytest.mark.parametrize("earlier", [False, True])
def test_whichever_write_fails_the_old_run_or_the_new_one_stands_whole(
    earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, out = network(tmp_path), samples(tmp_path), tmp_path / "out"
    (tmp_path / "other").mkdir()
    if earlier:
        export(network(tmp_path / "other", hidden=32), data, out, settings=MAGNITUDE)
    before, survived = snapshot(tmp_path), []
    for at in itertools.count(1):
        caught = None
        with failing(tmp_path, at, monkeypatch) as disk:
            try:
                export(model, data, out, settings=MAGNITUDE)
            except OSError as error:
                caught = error.errno
            except Prox24Error as error:
                caught = error.__cause__.errno if isinstance(error.__cause__, OSError) else 0
        if not disk.refused:
            break
        if caught is not None:  # what was solved before may be gone on with
            shutil.rmtree(tmp_path / "out.journal", ignore_errors=True)
        now = snapshot(tmp_path)
        assert caught in {None, errno.ENOSPC}, disk.refused
        if caught is not None and now == before:
            continue
        if caught is not None:  # the new run could not take its place, and has another name
            assert {name for name in now.keys() - before.keys() if "/" not in name} == {"out-2"}, disk.refused
            assert {name.replace("out-2/", "out/") for name in now if name.startswith("out-2/")} == {*WHOLE}
            shutil.rmtree(tmp_path / "out-2")
            assert snapshot(tmp_path) == before
            continue
        survived.append(disk.refused)
        report = load_report(out)
        assert {f"out/{name}" for name in report.files} == {name for name in now if name.startswith("out/")}
        assert {*WHOLE} - {f"out/{fault.stage}" for fault in report.faults} == {f"out/{name}" for name in report.files}
        others = {name: content for name, content in now.items() if not name.startswith("out")}
        assert others == {name: content for name, content in before.items() if not name.startswith("out")}
        export(model, data, out, settings=MAGNITUDE)  # removes what a clean-up could not
        assert {name for name in snapshot(tmp_path) if not name.startswith("out/")} == {*others, "out"}
        restore(tmp_path, before)
    assert at - len(survived) > 15, "hardly a step was refused"
    # What may fail: the parent that is there already, the engines' scratch folder, the clean-up, the name's own fsync.
    light = (f"{tmp_path}/out.journal", "/scratch.")  # the journal costs no run
    weighty = [step for step in survived if step != f"os.mkdir {tmp_path}" and not any(name in step for name in light)]
    pages = [step for step in weighty if any(name in step for name in PAGES)]
    assert len(pages) == 3 * len(PAGES)  # each is opened, gets its permissions, and is renamed
    calls = [step.partition(" ")[0] for step in weighty if step not in pages]
    assert [call for call in calls if call != "fsync"] == ["os.rmdir", "os.remove"]
    assert calls.count("fsync") == 1 or not earlier  # those of the journal, which a run that replaces another has not


WHOLE = tuple(f"out/{name}" for name in ("model.onnx", REPORT, *PAGES))
