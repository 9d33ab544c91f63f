"""The output folder: it appears whole or not at all, and never over the input."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prox24_export.errors import InputError

REPORT = "report.json"
TOOL = "prox24-export"  # what `tool` says in the report of a folder that may be replaced


def check(out: Path, model: Path, *data: object, force: bool) -> None:
    """Refuses a folder that must not be written, before any work is done.

    Args:
        out: The folder.
        model: The input model.
        data: Other sources the run reads; those that are no paths are left out.
        force: Whether an earlier run may be replaced.

    Raises:
        InputError: Something other than an earlier run is there, or an earlier run and not `force`, or an input lies
            in the folder that would be replaced.
        OSError: The folder above it cannot be written.
    """
    place = out.resolve()
    if place in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"the output folder {out} is or holds the current folder. Choose another folder with -o.")
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out} is a link to nothing. Choose another folder with -o.")
    if not out.exists():
        _expect_writable(place.parent)
        return
    for source in (model, *data):
        if isinstance(source, (str, Path)) and place in Path(source).resolve().parents:
            raise InputError(f"{source}, which is read, lies inside the output folder {out}. Choose another with -o.")
    _expect_replaceable(out, force=force)
    _expect_writable(place.parent)


def _expect_replaceable(out: Path, *, force: bool) -> None:
    if not out.is_dir():
        raise InputError(f"{out} is a file. Expected a folder that does not exist yet; choose one with -o.")
    if out.is_mount():
        raise InputError(f"{out} is a mount point, which cannot be replaced. Give a folder in it: -o {out / 'run'}.")
    if any(out.iterdir()):
        if not _is_finished_run(out):
            raise InputError(f"{out} holds files that are not a finished run. Choose another folder with -o.")
        if not force:
            raise InputError(f"{out} holds a finished run. Replace it with --force, or choose another folder with -o.")


@contextmanager
def folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        OSError: The folder cannot be written.
    """
    place = out.resolve()
    new = [parent for parent in place.parents if not parent.exists()]
    work = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        yield work
        work.chmod(0o777 & ~_umask())
        _replace(place, work)
    except BaseException:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        _remove(new)
        raise


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder in `folder` that vanishes when the block ends."""
    place = Path(tempfile.mkdtemp(prefix=".scratch.", dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _replace(out: Path, work: Path) -> None:
    """Puts `work` where `out` is; what was there stays until the new folder stands, and comes back if it cannot."""
    if not out.exists():
        work.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    old = aside / out.name
    try:
        out.rename(old)
        work.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        if not old.exists():
            aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove(empty: list[Path]) -> None:
    """Removes folders, innermost first, as far as they are there and nobody else put anything into them."""
    for parent in empty:
        try:
            parent.rmdir()
        except OSError:
            return


def _is_finished_run(out: Path) -> bool:
    """Whether this program wrote the folder: many things are called `report.json`."""
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and report.get("tool") == TOOL


def _expect_writable(parent: Path) -> None:
    """Finds out before the work, not after it."""
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {parent}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
