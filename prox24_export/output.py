"""The output folder: it appears whole or not at all, and never over the input."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prox24_export.errors import InputError

REPORT = "report.json"


def check(out: Path, model: Path, *, force: bool) -> None:
    """Refuses a folder that must not be written, before any work is done.

    Raises:
        InputError: Something other than an earlier run is there, or an earlier run and not `force`, or the input
            model lies in the folder that would be replaced.
    """
    if not out.exists():
        return
    if out.resolve() in model.resolve().parents:
        raise InputError(f"the model {model} lies inside the output folder {out}. Choose another folder with -o.")
    if not out.is_dir():
        raise InputError(f"{out} is a file. Expected a folder that does not exist yet; choose one with -o.")
    if not any(out.iterdir()):
        return
    if not (out / REPORT).is_file():
        raise InputError(f"{out} holds files that are not a finished run. Choose another folder with -o.")
    if not force:
        raise InputError(f"{out} holds a finished run. Replace it with --force, or choose another folder with -o.")


@contextmanager
def folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        OSError: The folder cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield work
        work.chmod(0o777 & ~_umask())
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)) / out.name
            out.rename(old)
            work.rename(out)
            shutil.rmtree(old.parent)
        else:
            work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
