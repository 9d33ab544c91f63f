"""Writes `report.json` and the files that are rendered from it, and renders them again from it."""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prox24_export.errors import InputError, describe_fault
from prox24_export.input_files import expect_file, expect_path
from prox24_export.output.destination import ABOVE
from prox24_export.output.manifest import PAGES, REPORT, list_files
from prox24_export.process.printable import escape, make_printable
from prox24_export.report import deploy, html, html_mask, junit, markdown, model_card, outcome
from prox24_export.report.html_mask import Mask
from prox24_export.results import reader
from prox24_export.results.report import Fault, Report

PAGE = "report.html"
WRITERS: dict[str, Callable[[Report], str]] = {
    "summary.md": markdown.render,
    "junit.xml": junit.render,
    outcome.DEPLOY: deploy.render,
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
    texts = _render(report, masks, _list_pages(report))
    for name, text in texts.items():
        _write(folder / name, text)
    return [folder / name for name in texts]


def write_report(
    report: Report, folder: Path, masks: Mapping[str, Mask] | None = None, beside: Iterable[str] = ()
) -> Report:
    """Writes `report.json` and every file that is rendered from it.

    A page that cannot be rendered or written is left out and named as a fault.

    Args:
        report: The report of a run.
        folder: Folder to write to.
        masks: As for `write_rendered`.
        beside: Names of files that the run wrote and that will lie beside the folder.

    Returns:
        The report with the names of all files, and with the faults that were found.

    Raises:
        OSError: A file cannot be written.
    """
    outside = [ABOVE + name for name in beside]
    report = replace(report, files=(*outside, *list_files(folder)))  # what is to be deployed
    report = replace(report, files=tuple(sorted({*report.files, *_list_pages(report), REPORT})))
    report = _write_pages(report, folder, masks)
    _add_model_card(report, folder)
    report = replace(report, files=tuple(sorted({*outside, *list_files(folder), REPORT})))
    _write(folder / REPORT, report.to_json())
    return report


def _write_pages(report: Report, folder: Path, masks: Mapping[str, Mask] | None) -> Report:
    """Writes every page that can be, and returns the report with the faults of the others, which all pages show."""
    while True:
        failed = {fault.stage for fault in report.faults}
        faults, pages = [], [name for name in _list_pages(report) if name not in failed]
        for name in pages:
            try:
                _write(folder / name, _render(report, masks, (name,))[name])
            except Exception as error:  # noqa: BLE001 - a page costs no solved model
                (folder / name).unlink(missing_ok=True)
                faults.append(Fault(name, describe_fault(error)))
        if not faults:
            return report
        report = replace(report, faults=(*report.faults, *faults))


def _list_pages(report: Report) -> list[str]:
    """The pages of a run; there is nothing to deploy where nothing is sparse."""
    return [name for name in PAGES if name != outcome.DEPLOY or deploy.is_deployable(report)]


def _add_model_card(report: Report, folder: Path) -> None:
    """Writes the card of a directory that has none; on any failure there is none."""
    card = folder / deploy.MODEL / model_card.NAME
    if deploy.is_directory(report) and not card.exists():
        with suppress(OSError):
            _write(card, model_card.render(make_printable(report)))


def _render(report: Report, masks: Mapping[str, Mask] | None, names: Iterable[str]) -> dict[str, str]:
    """Renders files by name, from a report in which no text can harm a reader."""
    shown = make_printable(report)
    corners = {escape(layer): mask for layer, mask in (masks or {}).items()}
    return {name: html.render(shown, corners) if name == PAGE else WRITERS[name](shown) for name in names}


def _write(path: Path, text: str) -> None:
    """Writes a file as a whole, so that an earlier one stays where that fails.

    The folder may be a stranger's: no link in it is followed, neither one of the file's own name nor another.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".unfinished")
    copy = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        copy.chmod(0o666 & ~_read_umask())
        copy.replace(path)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def rerender_folder(folder: Path) -> list[Path]:
    """Renders the files of a finished run again from its `report.json`, which stays as it is.

    Args:
        folder: The output folder of the run, or its ONNX file where that has a name of its own.

    Returns:
        The files that were written.

    Raises:
        InputError: The folder holds no report.
        OSError: A file cannot be written.
    """
    expect_path(folder, "folder")
    folder = reader.find_folder(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Expected the output folder of a finished run.")
    page = folder / PAGE
    masks: Mapping[str, Mask] = {}
    if page.exists():
        expect_file(page, "page", "the page of a finished run", most=reader.LARGEST)
        masks = html_mask.read_masks(page.read_text(encoding="utf-8"))
    return write_rendered(reader.load_report(folder), folder, masks)
