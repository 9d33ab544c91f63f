"""The folder OUT.journal: records of what a run has done, each whole and on the disk, or not there at all.

A record is a file `KEY.DIGEST.ENDING`. The SHA-256 of all its bytes is part of its name, so that a damaged one is found
whatever it holds. It is written under another name, put on the disk, and renamed.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.output.exchange import sync

ENDING, PARTIAL = ".journal", ".partial"
OWN = re.compile(r"[a-z0-9-]+\.([0-9a-f]{64}\.[a-z]+|partial)")  # every name that a run gives to a file of its journal


def find_journal(out: Path) -> Path:
    """Finds the place of the journal of an output folder: beside it, with all links resolved."""
    place = out.resolve()
    return place.with_name(place.name + ENDING)


@dataclass(frozen=True)
class Records:
    """The records of one run.

    Attributes:
        folder: Where they are. It is made with the first record.
    """

    folder: Path

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
        partial = self.folder / (key + PARTIAL)
        try:
            write(partial)
            digest = _digest(partial)
            sync(partial)
            whole = self.folder / f"{key}.{digest}.{ending}"
            partial.rename(whole)
        finally:
            partial.unlink(missing_ok=True)
        sync(self.folder)
        for earlier in self._find_all(key):
            if earlier != whole:
                earlier.unlink()

    def find(self, key: str) -> Path | None:
        """Finds the newest whole record of a key; None where there is none, or each is damaged."""
        found = sorted(self._find_all(key), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        return next((file for file in found if _is_whole(file)), None)

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

    def _find_all(self, key: str) -> list[Path]:
        return [file for file in self.folder.glob(f"{key}.*") if not file.name.endswith(PARTIAL)]


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is_whole(file: Path) -> bool:
    try:
        return file.name.split(".")[1] == _digest(file)
    except OSError:
        return False
