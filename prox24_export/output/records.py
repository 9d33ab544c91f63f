"""The folder OUT.journal: records of what a run has done, each whole or not there at all.

A record is a file `KEY.DIGEST.ENDING`. The SHA-256 of all its bytes is part of its name, so that a damaged one is found
whatever it holds. It is written under another name and renamed, so that a process that is killed loses none of those
that it has finished. A machine that loses power is another matter: once a second a record is put on the disk before it
gets its name; the system writes those in between when it likes to, and what is lost of them is found by the digest.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.output.exchange import sync

ENDING, PARTIAL = ".journal", ".partial"
SYNC_EVERY = 1.0  # seconds: what putting a record on the disk costs, a few ms, is then little beside the work
OWN = re.compile(r"[a-z0-9-]+\.([0-9a-f]{64}\.[a-z]+|partial)")  # every name that a run gives to a file of its journal


def find_journal(out: Path) -> Path:
    """Finds the place of the journal of an output folder: beside it, with all links resolved."""
    place = out.resolve()
    return place.with_name(place.name + ENDING)


@dataclass
class Records:
    """The records of one run, which is the only one that writes into their folder.

    Attributes:
        folder: Where they are. It is made with the first record.
    """

    folder: Path
    _files: dict[str, set[Path]] | None = field(init=False, default=None)  # finished ones by key; None: not listed yet
    _synced: float = field(init=False, default=-math.inf)  # when the last one was put on the disk

    def list_files(self) -> list[Path]:
        """Lists the files of all records, sorted by name, unfinished ones included.

        Raises:
            InputError: Something else has the folder's name, or there is anything in it that no run wrote.
        """
        if not self.folder.exists() and not self.folder.is_symlink():
            return []
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise InputError(f"{self.folder} is no journal of this program. Move it, or choose another folder with -o.")
        files = sorted(self.folder.iterdir())
        for file in files:
            if not OWN.fullmatch(file.name) or file.is_symlink() or not file.is_file():
                raise InputError(f"{file} is no record of a run. Move it away, or choose another folder with -o.")
        return files

    def put(self, key: str, ending: str, write: Callable[[Path], object]) -> None:
        """Writes a record, which takes the place of an earlier one of the same key.

        Args:
            key: What is recorded: lower-case letters, digits and hyphens.
            ending: The ending of its file, without a dot.
            write: Writes the file.

        Raises:
            OSError: The disk does not take it.
        """
        if not self.folder.is_dir():
            self.folder.mkdir()
            sync(self.folder.parent)
        if self._files is None:
            self._files = self._list_by_key()
        partial = self.folder / (key + PARTIAL)
        syncs = time.monotonic() - self._synced >= SYNC_EVERY
        try:
            write(partial)
            whole = self.folder / f"{key}.{_digest(partial)}.{ending}"
            if syncs:
                sync(partial)
            partial.rename(whole)
        finally:
            partial.unlink(missing_ok=True)
        if syncs:
            sync(self.folder)
            self._synced = time.monotonic()
        for earlier in self._files.get(key, set()) - {whole}:
            earlier.unlink(missing_ok=True)
        self._files[key] = {whole}

    def find(self, key: str) -> Path | None:
        """Finds the newest whole record of a key; None where there is none, or each is damaged."""
        return self.find_each([key]).get(key)

    def find_each(self, keys: Iterable[str]) -> dict[str, Path]:
        """Finds the newest whole record of each key that has one; the folder is listed once for all of them."""
        files, found = self._list_by_key(), {}
        for key in keys:
            newest_first = sorted(files.get(key, ()), key=lambda file: file.stat().st_mtime_ns, reverse=True)
            if whole := next((file for file in newest_first if _is_whole(file)), None):
                found[key] = whole
        return found

    def remove(self) -> None:
        """Removes all records and the folder, the record that was written first as the last one.

        Raises:
            InputError: There is anything in the folder that no run wrote; nothing is removed.
            OSError: A file cannot be removed.
        """
        for file in sorted(self.list_files(), key=lambda file: file.stat().st_mtime_ns, reverse=True):
            file.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()
        self._files = None

    def _list_by_key(self) -> dict[str, set[Path]]:
        """Lists finished records, whole ones and damaged ones, by their key."""
        files: dict[str, set[Path]] = {}
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if not file.name.endswith(PARTIAL):
                files.setdefault(file.name.partition(".")[0], set()).add(file)
        return files


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is_whole(file: Path) -> bool:
    try:
        return file.name.split(".")[1] == _digest(file)
    except OSError:
        return False
