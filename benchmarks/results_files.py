"""Results of a benchmark as files: JSON for programs, Markdown for readers, both with machine and date."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def write_results(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    table: str,
    *,
    facts: Mapping[str, Any] | None = None,
    folder: Path = RESULTS,
) -> None:
    """Write `name.json` and `name.md`, each in one step, so that a killed run leaves either old or new ones.

    Args:
        name: Of the files, without their suffix.
        rows: What was measured, for the JSON file.
        table: The same, in Markdown.
        facts: What else the JSON file says of the run, beside date and machine.
        folder: Where; it is made where it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).date().isoformat()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    content = {"date": date, "machine": machine, **(facts or {}), "rows": list(rows)}
    _replace(folder / f"{name}.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    _replace(folder / f"{name}.md", f"Measured {date} on {machine}.\n\n{table}")


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
