"""Everything that is written beside `report.json`, and made again from it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.output import REPORT
from prox24_export.report import html, html_mask, junit, markdown
from prox24_export.report.html_mask import Mask
from prox24_export.results import reader
from prox24_export.results.report import Report

PAGE = "report.html"
WRITERS: dict[str, Callable[[Report], str]] = {
    "summary.md": markdown.render,
    "junit.xml": junit.render,
}


def write(report: Report, folder: Path, masks: Mapping[str, Mask] | None = None) -> list[Path]:
    """Every file that is rendered from a report. All are rendered before the first is written.

    Args:
        report: What is rendered.
        folder: Where to.
        masks: By layer, of the pruned weights; the page shows a corner of each.

    Raises:
        OSError: One cannot be written.
    """
    rendered = {folder / PAGE: html.render(report, masks)}
    rendered |= {folder / name: render(report) for name, render in WRITERS.items()}
    for path, text in rendered.items():
        path.write_text(text, encoding="utf-8")
    return list(rendered)


def write_all(report: Report, folder: Path, masks: Mapping[str, Mask] | None = None) -> None:
    """`report.json` and every file that is rendered from it.

    Args:
        report: What a run has found.
        folder: Where to.
        masks: As for `write`.

    Raises:
        OSError: One cannot be written.
    """
    (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
    write(report, folder, masks)


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
    page = folder / PAGE
    masks = html_mask.read(page.read_text(encoding="utf-8")) if page.is_file() else {}
    return write(reader.load(folder), folder, masks)
