"""GitHub Actions: annotations on the run (workflow commands on stdout), and the page's summary."""

from collections.abc import Mapping
from pathlib import Path

from prox24_export.report import engine_tables, markdown
from prox24_export.results.report import Gate, Report

SUMMARY = "GITHUB_STEP_SUMMARY"
TITLE = "prox24-export"
MOST = 10  # annotations of one kind that GitHub shows of a step
LONGEST = 2_000  # characters of a message; GitHub cuts longer ones without a word


def render(report: Report) -> str:
    """One workflow command for each failed gate (error), doubt or warning (warning), and the verdict (notice)."""
    errors = [(f"gate {gate.name}", _gate(gate)) for gate in report.gates if not gate.passed]
    doubts = [gate for gate in report.gates if gate.passed and gate.verdict == "inconclusive"]
    warned = [(f"gate {gate.name}", _gate(gate)) for gate in doubts]
    warned += [(TITLE, text) for text in [*markdown.warnings(report), *_latency(report)]]
    notices = [(TITLE, markdown.verdict(report)), *_unmeasured(report)]
    lines = [
        _command(kind, title, message)
        for kind, entries in (("error", errors), ("warning", warned), ("notice", notices))
        for title, message in _shortened(entries)
    ]
    return "".join(f"{line}\n" for line in lines)


def append_summary(report: Report, environment: Mapping[str, str]) -> str:
    """Appends the report as Markdown to the file that `GITHUB_STEP_SUMMARY` names; nothing without that variable.

    Returns:
        A warning as a workflow command where the file cannot be written: the run itself is done and stays done. Empty
        otherwise.
    """
    path = environment.get(SUMMARY, "")
    if not path:
        return ""
    try:
        with Path(path).open("a", encoding="utf-8") as summary:
            summary.write(f"\n{markdown.render(report)}\n")
    except OSError as error:
        message = f"the summary cannot be written to {path} ({SUMMARY}): {error.strerror or error}"
        return _command("warning", TITLE, message) + "\n"
    return ""


def _gate(gate: Gate) -> str:
    return f"{markdown.gate_verdict(gate)}: {markdown.gate_value(gate)}, limit {markdown.gate_limit(gate)}"


def _latency(report: Report) -> list[str]:
    """Measurements that cannot be relied on, and what builder log and inspector contradict each other in."""
    if report.engine is None:
        return []
    doubted = [point for point in report.engine.latency if not point.valid]
    told = [f"latency not valid ({engine_tables.shapes(point)}): {'; '.join(point.reasons)}" for point in doubted]
    return [*told, *report.engine.disagreements]


def _unmeasured(report: Report) -> list[tuple[str, str]]:
    """Why there is no speed-up, and the estimate, which is called that."""
    entries = []
    if report.engine is not None and (report.engine.not_measured or not report.engine.latency):
        entries.append((TITLE, engine_tables.speedup(report)))
    if report.estimate is not None:
        entries.append(("estimate, not a measurement", engine_tables.estimate(report.estimate)))
    return entries


def _shortened(entries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """As many as GitHub shows; the last says how many are left out."""
    if len(entries) <= MOST:
        return entries
    rest = len(entries) - MOST + 1
    return [*entries[: MOST - 1], (TITLE, f"{rest:,} more; report.json and the summary have them all")]


def _command(kind: str, title: str, message: str) -> str:
    """`::kind title=…::message`, in which neither text can end its part or begin another command."""
    cut = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    escaped = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped}::{_escaped(cut)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
