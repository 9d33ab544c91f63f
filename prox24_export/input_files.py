"""Files that are read: only regular ones, which have an end, and no larger than what they should hold can be.

A reader that opens a named pipe waits for ever, and one that opens a device reads for ever. Every reader of this
program therefore asks here first.
"""

import difflib
import errno
import os
import re
import stat
from pathlib import Path

from prox24_export.errors import InputError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
MB = 1 << 20
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])", re.IGNORECASE)


def expect_file(path: Path, what: str, wanted: str, *, most: int | None = None) -> os.stat_result:
    """Expects a regular file; links are followed.

    Args:
        path: The file.
        what: What messages call it, e.g. `model`.
        wanted: What was expected, for messages, e.g. `the path of an .onnx file`.
        most: The most bytes that it may hold; None for any number.

    Returns:
        What the system says of the file.

    Raises:
        InputError: There is no such file, it cannot be looked at, it is a folder, a named pipe, a socket or a device,
            or it is too large.
    """
    expect_path(path, what)
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            raise InputError(f"no such {what}: {path}. Expected {wanted}.") from error
        raise InputError(f"{what} {path} cannot be read: {error.strerror}. Expected {wanted}.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise InputError(f"{what} {path} is {kind}. Expected {wanted}.")
    if most is not None and found.st_size > most:
        raise InputError(
            f"{what} {path} holds {found.st_size / MB:.1f} MB. Expected {wanted}, of at most {most // MB} MB."
        )
    return found


def expect_no_url(name: str | Path, what: str) -> None:
    """Expects the name of a file, and no address on a network, from which nothing is read.

    Raises:
        InputError: It is a URL, which may have lost a slash as a path.
    """
    if found := _URL.match(str(name)):
        url = f"{found.group(1)}://{str(name)[found.end() :]}"
        raise InputError(
            f"{what} {url} is a URL, and nothing is read from a network. Download it first, with curl -LO {url}, and "
            "name the file."
        )


def propose_near(path: Path) -> str:
    """Proposes the name beside a path that is most like it, as a sentence behind another; empty where none is."""
    try:
        names = [file.name for file in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, 1)
    return f" Did you mean {path.parent / near[0]}?" if near else ""


def expect_path(path: str | Path, what: str) -> None:
    """Expects a name that a file can have, whether it is there or not.

    Raises:
        InputError: The name holds a NUL byte, or is longer than the system allows.
    """
    if "\0" in str(path):
        raise InputError(f"{what} {str(path)!r} holds a NUL byte. Expected the name of a file.")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            shown = f"{str(path)[:40]}… ({len(str(path)):,} characters)"
            raise InputError(f"{what} {shown} is longer than names of files can be. Give a shorter one.") from error
