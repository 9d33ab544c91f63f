"""Everything that is written beside `report.json`, and made again from it."""

from collections.abc import Callable
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.report import html, junit, markdown, schema
from prox24_export.report.model import Report

WRITERS: dict[str, Callable[[Report], str]] = {
    "report.html": html.render,
    "summary.md": markdown.render,
    "junit.xml": junit.render,
}


def write(report: Report, folder: Path) -> list[Path]:
    """Every file that is rendered from a report. All are rendered before the first is written.

    Raises:
        OSError: One cannot be written.
    """
    rendered = {folder / name: render(report) for name, render in WRITERS.items()}
    for path, text in rendered.items():
        path.write_text(text, encoding="utf-8")
    return list(rendered)


def rerender(folder: Path) -> list[Path]:
    """Makes the files of a finished run again from its `report.json`, which stays as it is.

    Args:
        folder: The run's output.

    Returns:
        What was written.

    Raises:
        InputError: The folder holds no report.
        OSError: A file cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Expected the output folder of a finished run.")
    return write(schema.load(folder), folder)
