"""Which files of an output folder a run wrote: those that its report lists, and only those may be removed."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from prox24_export.errors import InputError
from prox24_export.input_files import expect_file
from prox24_export.output.destination import list_beside

REPORT = "report.json"
PAGES = ("report.html", "summary.md", "junit.xml", "DEPLOY.md")  # which `prox24-export report` may write later, too
LARGEST = 1 << 28  # bytes of a report
TOOL = "prox24-export"  # the value of `tool` in the report of a folder that may be replaced


def list_files(folder: Path) -> list[str]:
    """Lists every file below a folder by its name relative to it, with forward slashes, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in _walk(folder))


def read_listed(folder: Path) -> frozenset[str] | None:
    """Reads which files of a folder a run wrote; None where no run of this program wrote the folder.

    Many things are called `report.json`, and anybody can write one: a name that leads out of the folder is not listed.
    """
    told = _read_names(folder)
    if told is None:
        return None
    return frozenset(name for name in (*told, *(PAGES if told else ())) if _stays_inside(name))


def read_listed_beside(folder: Path) -> frozenset[str]:
    """Reads which files directly beside a folder the run that wrote it wrote, by their names; none where none did."""
    return frozenset(list_beside(_read_names(folder) or ()))


def find_others(folder: Path, listed: frozenset[str]) -> list[str]:
    """Finds the files below a folder that are not listed, by their names relative to it."""
    return [name for name in list_files(folder) if name not in listed]


def _read_names(folder: Path) -> list[str] | None:
    """The names of files in the report of a folder; None where no run of this program wrote it."""
    try:
        expect_file(folder / REPORT, "report", "the report of a run", most=LARGEST)
        report: Any = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (InputError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(report, dict) or report.get("tool") != TOOL:
        return None
    names = report.get("files")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _walk(folder: Path) -> Iterator[Path]:
    """Yields everything below a folder that is no folder; links are not followed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
