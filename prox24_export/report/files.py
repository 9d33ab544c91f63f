"""Every file of a report, in the output folder."""

from pathlib import Path

from prox24_export.output import REPORT
from prox24_export.report import html, junit, markdown
from prox24_export.report.model import Report


def write(report: Report, folder: Path) -> None:
    """Writes `report.json`, `report.html`, `summary.md` and `junit.xml`.

    Raises:
        OSError: One cannot be written.
    """
    (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
    (folder / "report.html").write_text(html.render(report), encoding="utf-8")
    (folder / "summary.md").write_text(markdown.render(report), encoding="utf-8")
    (folder / "junit.xml").write_text(junit.render(report), encoding="utf-8")
