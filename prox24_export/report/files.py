"""Writes `report.json` and the files that are rendered from it, and renders them again from it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.input_files import expect_file
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


def write_rendered(report: Report, folder: Path, masks: Mapping[str, Mask] | None = None) -> list[Path]:
    """Writes every file that is rendered from a report; all are rendered before the first is written.

    Args:
        report: The report to render.
        folder: Folder to write to.
        masks: Masks of the pruned weights, by node name of the layer; the page shows a corner of each.

    Returns:
        The files that were written.

    Raises:
        OSError: A file cannot be written.
    """
    rendered = {folder / PAGE: html.render(report, masks)}
    rendered |= {folder / name: render(report) for name, render in WRITERS.items()}
    for path, text in rendered.items():
        path.write_text(text, encoding="utf-8")
    return list(rendered)


def write_report(report: Report, folder: Path, masks: Mapping[str, Mask] | None = None) -> None:
    """Writes `report.json` and every file that is rendered from it.

    Args:
        report: The report of a run.
        folder: Folder to write to.
        masks: As for `write_rendered`.

    Raises:
        OSError: A file cannot be written.
    """
    (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
    write_rendered(report, folder, masks)


def rerender_folder(folder: Path) -> list[Path]:
    """Renders the files of a finished run again from its `report.json`, which stays as it is.

    Args:
        folder: The output folder of the run.

    Returns:
        The files that were written.

    Raises:
        InputError: The folder holds no report.
        OSError: A file cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Expected the output folder of a finished run.")
    page = folder / PAGE
    masks: Mapping[str, Mask] = {}
    if page.exists():
        expect_file(page, "page", "the page of a finished run", most=reader.LARGEST)
        masks = html_mask.read_masks(page.read_text(encoding="utf-8"))
    return write_rendered(reader.load_report(folder), folder, masks)
