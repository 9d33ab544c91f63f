"""One finished folder in the place of another, in one step where the system has one; everything on disk before it."""

import ctypes
import errno
import os
from pathlib import Path

AT_FDCWD = -100  # fcntl.h: paths are relative to the current folder
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # linux/fs.h


def write_through(folder: Path) -> None:
    """Has the system write every file and folder below `folder`, and itself, to the disk.

    Raises:
        OSError: The disk does not take them.
    """
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            sync(path)


def sync(path: Path) -> None:
    """Has the system write one file or folder to the disk.

    Raises:
        OSError: The disk does not take it.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno == errno.EINVAL):  # file systems that cannot do it with folders
            raise
    finally:
        os.close(handle)


def exchange(left: Path, right: Path) -> None:
    """Lets two folders change places, so that one of them is at `right` at every moment.

    Where the system has no such step, `right` is away for a moment, as `right.replaced`, and comes back on failure.

    Raises:
        OSError: They cannot be renamed.
    """
    if _exchange_at_once(left, right):
        return
    aside = find_aside(right)
    right.rename(aside)
    try:
        left.rename(right)
    except BaseException:
        aside.rename(right)
        raise
    aside.rename(left)


def find_aside(place: Path) -> Path:
    """The name under which a folder is away while another takes its place."""
    return place.with_name(f"{place.name}.replaced")


def rename_to_free(source: Path, target: Path) -> None:
    """Renames a file or folder, and takes the place of nothing.

    Where the system has no such step, whether the name is free is looked at just before.

    Raises:
        FileExistsError: Something has the name.
        OSError: It cannot be renamed.
    """
    if _rename_at_once(source, target, RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(f"{target} is in the way")
    source.rename(target)


def _exchange_at_once(left: Path, right: Path) -> bool:
    return _rename_at_once(left, right, RENAME_EXCHANGE)


def _rename_at_once(source: Path, target: Path, flag: int) -> bool:
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux, since glibc 2.28
    except (OSError, AttributeError):
        return False
    done = rename(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flag)
    return bool(done == 0)  # else a file system without it, and the plain steps name the cause where it is another
