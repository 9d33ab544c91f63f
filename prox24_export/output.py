"""The output folder, which appears whole or not at all, and never replaces an input."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prox24_export.errors import InputError

REPORT = "report.json"
TOOL = "prox24-export"  # the value of `tool` in the report of a folder that may be replaced


def check_target(out: Path, model: Path, *data: object, force: bool) -> None:
    """Refuses an output folder that must not be written, before any work is done.

    Args:
        out: The output folder.
        model: The input model.
        data: The other sources that the run reads; those that are no paths do not count.
        force: Whether an earlier run may be replaced.

    Raises:
        InputError: The folder holds something other than a finished run, or a finished run and `force` is not given, or
            it holds an input.
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
def replace_folder(out: Path) -> Iterator[Path]:
    """Makes a temporary folder beside `out`, which replaces `out` when the block ends well and vanishes when it fails.

    Args:
        out: The output folder; what is there stays until the block has ended well.

    Yields:
        The temporary folder to write to.

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
        work.chmod(0o777 & ~_read_umask())
        _replace(place, work)
    except BaseException:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        _remove_empty(new)
        raise


@contextmanager
def make_scratch(folder: Path) -> Iterator[Path]:
    """Makes a folder in `folder` that vanishes when the block ends."""
    place = Path(tempfile.mkdtemp(prefix=".scratch.", dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _replace(out: Path, work: Path) -> None:
    """Puts `work` in the place of `out`; what was there stays until `work` is in place, and comes back on failure."""
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


def _remove_empty(empty: list[Path]) -> None:
    """Removes folders, innermost first, as far as they exist and nobody else has put anything into them."""
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
    """Checks that a folder can be written, before the work and not after it."""
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {parent}")


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
