"""One bad input: what is written, which command reads it, and how that may end."""

import hashlib
import os
import random
import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REFUSED = frozenset({2, 3})
VALID = frozenset({0, 1})
WHOLE_FILE = 1 << 26  # bytes: of larger files, which are sparse, only the size is compared


@dataclass(frozen=True)
class Case:
    """One input and the command that reads it.

    Attributes:
        kind: Its class.
        index: Its number in the class; the same number always makes the same input.
        name: What is wrong, for people.
        command: The arguments, relative to the folder.
        build: Writes the input into a folder.
        may_be_valid: Whether the input may in truth still be valid, as a random change can leave it.
        codes: The exit codes that refuse it.
        inject: What fails while the command runs, as `injection.inject` reads it; empty where nothing does.
    """

    kind: str
    index: int
    name: str
    command: tuple[str, ...]
    build: Callable[[Path], None]
    may_be_valid: bool = False
    codes: frozenset[int] = REFUSED
    inject: str = ""

    @property
    def label(self) -> str:
        """What `--only` takes."""
        return f"{self.kind}/{self.index}"


def make_dice(*words: object) -> random.Random:
    """Random numbers that depend on the words alone."""
    return random.Random(":".join(map(str, words)))  # noqa: S311 - inputs, no secrets


def run_in_copy(work: Callable[[], object]) -> None:
    """Runs something in a copy of this process, which must have no threads, as libraries would start them.

    Raises:
        RuntimeError: It failed.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except Exception:  # noqa: BLE001 - whatever it is, the parent says that it failed
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a valid input cannot be made")


def take_snapshot(folder: Path) -> dict[str, str]:
    """What is below a folder: for each name the kind of thing, and for a file the digest of its bytes."""
    found = {}
    for parent, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(parent, name)  # noqa: PTH118 - names that are no UTF-8
            if b"__pycache__" not in path:
                found[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = _describe(path)
    return found


def digest_case(case: Case, snapshot: dict[str, str]) -> str:
    """A digest of the input with its command: equal ones are one input."""
    whole = hashlib.sha256(repr((case.command, case.inject, sorted(snapshot.items()))).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


def count_bytes(folder: Path) -> int:
    """How many bytes of files lie below a folder, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if stat.S_ISREG(path.lstat().st_mode))


def _describe(path: bytes) -> str:
    there = os.lstat(path)
    if stat.S_ISLNK(there.st_mode):
        return f"link to {os.fsdecode(os.readlink(path))}"  # noqa: PTH115 - names that are no UTF-8
    if not stat.S_ISREG(there.st_mode):
        return f"kind {stat.S_IFMT(there.st_mode):o}"
    if there.st_size > WHOLE_FILE:
        return f"{there.st_size} bytes"
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - names that are no UTF-8
            return hashlib.sha256(file.read()).hexdigest()
    except PermissionError:
        return f"{there.st_size} bytes that cannot be read"
