"""What a run has read: its state and its digest when it was read, and at the end whether it is still the same.

A report that names another file than the one that was pruned is worthless, and so is a model half of which was read
before and half after somebody wrote it again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.results.report import FileFacts

CHUNK = 1 << 20  # bytes
FileState = tuple[int, int, int, int]
"""Inode, size, and the nanoseconds of the last change of the content and of anything else, which nobody can set."""


def look_at(files: Sequence[Path]) -> dict[Path, FileState]:
    """Notes the state of files.

    Raises:
        InputError: A file cannot be looked at.
    """
    return {file: _look_at_one(file) for file in files}


def expect_unchanged(states: Mapping[Path, FileState], is_same: Callable[[], bool]) -> None:
    """Expects files to hold what they held when they were read.

    Args:
        states: The state of each file at that time.
        is_same: Tells, where a state differs, whether all hold the same all the same: a new link to a file, say,
            changes its state and nothing in it.

    Raises:
        InputError: A file has changed, or is gone.
    """
    changed = [file for file, state in states.items() if _look_at_one(file) != state]
    if changed and not is_same():
        raise InputError(
            f"{changed[0]} was changed while it was read. Expected the model to stay as it is until the run ends; "
            "run again."
        )


def describe_files(files: Mapping[str, Path], shown: Path) -> FileFacts:
    """Measures the size of files together, and computes their SHA-256 digest.

    Args:
        files: The files by name. The names are part of the digest; that of a single file of the name "" is not.
        shown: The name to report them under.

    Raises:
        OSError: A file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for name, file in files.items():
        digest.update(name.encode(errors="surrogateescape"))
        with file.open("rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    return FileFacts(str(shown), size, digest.hexdigest())


def list_folder(folder: Path) -> dict[str, Path]:
    """Lists the files of a folder by name, sorted; what lies in folders of it does not count."""
    return {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}


def _look_at_one(file: Path) -> FileState:
    try:
        found = file.stat()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. Expected a file that stays there.") from error
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
