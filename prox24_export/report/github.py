"""GitHub Actions: annotations on the run (workflow commands on stdout), and the page's summary."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prox24_export.output.manifest import TOOL
from prox24_export.report import content, engine_tables, markdown
from prox24_export.results.report import Report

SUMMARY = "GITHUB_STEP_SUMMARY"
MOST = 10  # GitHub shows so many annotations of one kind in a step
LONGEST = 2_000  # most characters of a message; GitHub cuts much longer ones without a word


def render(report: Report) -> str:
    """Renders workflow commands: errors for failed gates, warnings for doubts, and the verdict as a notice."""
    errors = [(f"gate {gate.name}", content.gate_sentence(gate)) for gate in report.gates if not gate.passed]
    errors += [(f"{fault.stage} failed", fault.message) for fault in report.faults]
    doubts = [gate for gate in report.gates if gate.passed and gate.verdict == "inconclusive"]
    warned = [(f"gate {gate.name}", content.gate_sentence(gate)) for gate in doubts]
    warned += [(TOOL, text) for text in [*content.warnings(replace(report, faults=())), *_latency(report)]]
    notices = [(TOOL, content.verdict(report)), *_unmeasured(report)]
    lines = [
        _format_command(kind, title, message)
        for kind, entries in (("error", errors), ("warning", warned), ("notice", notices))
        for title, message in _limit(entries)
    ]
    return "".join(f"{line}\n" for line in lines)


def append_summary(report: Report, environment: Mapping[str, str]) -> str:
    """Appends the report as Markdown to the file that `GITHUB_STEP_SUMMARY` names; without it, nothing is written.

    Returns:
        A warning as a workflow command where the file cannot be written, since the run itself has succeeded; else the
        empty text.
    """
    path = environment.get(SUMMARY, "")
    if not path:
        return ""
    try:
        with Path(path).open("a", encoding="utf-8") as summary:
            summary.write(f"\n{markdown.render(report)}\n")
    except OSError as error:
        message = f"the summary cannot be written to {path} ({SUMMARY}): {error.strerror or error}"
        return _format_command("warning", TOOL, message) + "\n"
    return ""


def _latency(report: Report) -> list[str]:
    """Measurements that cannot be relied on, and where the builder's log and the inspector contradict each other."""
    if report.engine is None:
        return []
    doubted = [point for point in report.engine.latency if not point.valid]
    told = [
        f"latency not valid ({engine_tables.format_shapes(point)}): {'; '.join(point.reasons)}" for point in doubted
    ]
    return [*told, *report.engine.disagreements]


def _unmeasured(report: Report) -> list[tuple[str, str]]:
    """Why there is no speed-up, and the estimate, which is labelled as one."""
    entries = []
    if report.engine is not None and (report.engine.not_measured or not report.engine.latency):
        entries.append((TOOL, engine_tables.speedup_sentence(report)))
    expected = engine_tables.estimate_sentence(report.estimate)
    if expected:
        entries.append(("estimate, not a measurement", expected))
    return entries


def _limit(entries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Limits entries to as many as GitHub shows; the last one then says how many are left out."""
    if len(entries) <= MOST:
        return entries
    rest = len(entries) - MOST + 1
    return [*entries[: MOST - 1], (TOOL, f"{rest:,} more; report.json and the summary have them all")]


def _format_command(kind: str, title: str, message: str) -> str:
    """The command `::kind title=…::message`; neither text can end its part or begin another command."""
    cut = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    escaped = _escape(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped}::{_escape(cut)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
