"""The lock of an output folder: a file beside it that only one run can hold, on this machine or in a shared folder."""

import errno
import fcntl
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.process.interrupts import hold_signals

ENDING = ".lock"
OWNER = "prox24-export"  # the first word in a lock of ours; machine and process follow
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}  # file systems that have none, such as some network ones


@dataclass
class Lock:
    """A lock that is held.

    Attributes:
        left: Whether a run that was killed had left it.
        stays: Whether its file outlives the block: it is the proof that a run of this program made what is beside the
            output folder, as long as that is there.
    """

    left: bool
    stays: bool


@contextmanager
def hold_lock(place: Path) -> Iterator[Lock]:
    """Holds the lock of the output folder `place` while the block runs, and removes its file then.

    The system lets go of the lock of a process that ends in any way; the file that it leaves is taken over.

    Yields:
        The lock. The file of one that a run had left stays until the block says that it need not.

    Raises:
        InputError: Another run holds the lock, or a file of its name is none of ours.
        OSError: The file cannot be written.
    """
    file = place.with_name(place.name + ENDING)
    handle, lock = None, Lock(left=False, stays=False)
    try:
        with hold_signals():
            handle, lock.left = _take(file, place)
            lock.stays = lock.left
        yield lock
    finally:
        if handle is not None:
            with hold_signals():
                if not lock.stays:
                    with suppress(OSError):  # the next run takes it over
                        file.unlink()  # before it is let go: whoever waits for it then finds it gone
                os.close(handle)


def _take(file: Path, place: Path) -> tuple[int, bool]:
    """Opens and locks the file, and writes into it who holds it."""
    while True:
        handle = _open(file)
        try:
            left = _lock(handle, file, place)
            if _is_still(file, handle):
                _sign(handle, file, left=left)
                return handle, left
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it between the two steps


def _open(file: Path) -> int:
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:  # a link, a folder, a socket
            raise _make_refusal(file) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _make_refusal(file)
    return handle


def _make_refusal(file: Path) -> InputError:
    return InputError(f"{file} is no lock of this program. Remove it, or choose another folder with -o.")


def _lock(handle: int, file: Path, place: Path) -> bool:
    """Locks an open file, and tells whether a run had left it."""
    words = os.pread(handle, 4096, 0).decode(errors="replace").split()
    if words and (words[0] != OWNER or len(words) != 3 or not words[2].isdecimal()):  # noqa: PLR2004 - as in `_sign`
        raise _make_refusal(file)
    busy = f"another run is writing {place}. Wait until it ends, or choose another folder with -o."
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(busy) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if words and (words[1] != _name_machine() or _is_running(int(words[2]))):
            raise InputError(f"{busy} If no such run is left, remove {file}.") from error
    return bool(words)


def _sign(handle: int, file: Path, *, left: bool) -> None:
    """Writes into the lock who holds it; where that fails, a lock that no run had left is given up."""
    content = f"{OWNER} {_name_machine()} {os.getpid()}\n".encode()
    try:
        os.pwrite(handle, content, 0)
        os.ftruncate(handle, len(content))
    except OSError:
        if not left:
            file.unlink()
        raise


def _name_machine() -> str:
    return "".join(platform.node().split()) or "-"


def _is_still(file: Path, handle: int) -> bool:
    """Whether the open file is the one that has the name now."""
    try:
        there = os.lstat(file)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
