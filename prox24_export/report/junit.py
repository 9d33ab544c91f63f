"""`junit.xml`, for the test view of a pipeline: whether the pattern was verified, what was timed, and every gate.

The file is valid by the strictest of the schemas in use, that of Jenkins' xUnit plugin (`junit-10.xsd`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from prox24_export.output.manifest import TOOL
from prox24_export.report import content, engine_tables
from prox24_export.results.report import Fault, Gate, Report

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


class Case(NamedTuple):
    """One line of the test view; `outcome` is `failure`, `skipped`, or empty where it passed."""

    group: str
    name: str
    seconds: float
    outcome: str = ""
    kind: str = ""
    message: str = ""


def render(report: Report) -> str:
    """Renders the report as JUnit XML.

    A gate that cannot be decided is reported as `inconclusive`: it fails where the gate fails, and else is skipped.
    """
    judged = [*map(_gate_case, report.gates), *map(_fault_case, report.faults)]
    cases = [*_verification_cases(report), *_latency_cases(report), *judged]
    total = _seconds(report.seconds.get("total", sum(report.seconds.values())))
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.outcome == "failure" for case in cases)),
        "errors": "0",
        "time": total,
    }
    root = _add_element(None, "testsuites", {"name": TOOL, **counts})
    skipped = str(sum(case.outcome == "skipped" for case in cases))
    suite = _add_element(root, "testsuite", {"name": TOOL, **counts, "skipped": skipped, "timestamp": report.started})
    properties = _add_element(suite, "properties", {})
    for name, value in _facts(report).items():
        _add_element(properties, "property", {"name": name, "value": value})
    for case in cases:
        where = {"classname": f"{TOOL}.{case.group}", "name": case.name, "time": _seconds(case.seconds)}
        found = _add_element(suite, "testcase", where)
        if case.outcome:
            _add_element(found, case.outcome, {"type": case.kind, "message": case.message})
    said = [content.verdict(report), *(f"warning: {text}" for text in content.warnings(report))]
    _add_element(suite, "system-out", {}).text = _clean("\n".join(said))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add_element(parent: Element | None, tag: str, attributes: Mapping[str, str]) -> Element:
    clean = {name: _clean(value) for name, value in attributes.items()}
    return Element(tag, clean) if parent is None else SubElement(parent, tag, clean)


def _verification_cases(report: Report) -> Sequence[Case]:
    """One case for the verified pattern, which passes: a report exists only where the verification passed."""
    pruned = len(report.sparse_layers)
    if not pruned:
        kind = "only-dense" if report.budget is not None else "nothing-eligible"
        return [Case("verification", "2:4 pattern", 0.0, "skipped", kind, content.verdict(report))]
    name = f"2:4 pattern of {pruned:,} layer{'' if pruned == 1 else 's'}"
    return [Case("verification", name, report.seconds.get("verify", 0.0))]


def _latency_cases(report: Report) -> Sequence[Case]:
    """One case for each measured latency; it is skipped, with the reason, where the latency is missing or not valid."""
    engine = report.engine
    if engine is None:
        return []
    if engine.not_measured or not engine.latency:
        return [Case("latency", "measured", 0.0, "skipped", "not-measured", engine_tables.speedup_sentence(report))]
    return [
        Case("latency", engine_tables.format_shapes(point), 0.0)
        if point.valid
        else Case("latency", engine_tables.format_shapes(point), 0.0, "skipped", "not-valid", "; ".join(point.reasons))
        for point in engine.latency
    ]


def _gate_case(gate: Gate) -> Case:
    inconclusive = gate.verdict == "inconclusive"
    outcome = "failure" if not gate.passed else "skipped" if inconclusive else ""
    return Case(
        "gates", gate.name, 0.0, outcome, "inconclusive" if inconclusive else "limit", content.gate_sentence(gate)
    )


def _fault_case(fault: Fault) -> Case:
    return Case("stages", fault.stage, 0.0, "failure", "fault", fault.message)


def _facts(report: Report) -> dict[str, str]:
    accuracy, engine = report.accuracy, report.engine
    facts = {
        "version": report.versions.get(TOOL, ""),
        "input": f"{report.input.path} {report.input.sha256}",
        "output": f"{report.output.path} {report.output.sha256}",
        "sparse layers": f"{len(report.sparse_layers)} of {len(report.layers)}",
    }
    if accuracy is not None:
        facts |= {
            f"{name} {model}": str(value)
            for model, values in (("dense", accuracy.dense), ("sparse", accuracy.sparse))
            for name, value in values.items()
        }
    expected = engine_tables.estimate_sentence(report.estimate)
    if expected:
        facts["estimate (not a measurement)"] = expected
    if engine is not None:
        facts["engine"] = " on ".join(part for part in (engine_tables.format_engine(engine), engine.device) if part)
        facts["speed-up"] = engine_tables.speedup_sentence(report)
    return facts


def _seconds(value: float) -> str:
    return f"{max(0.0, value) if math.isfinite(value) else 0.0:.3f}"


def _clean(text: str) -> str:
    """Replaces every character that XML cannot hold by an escape that shows what it was."""
    return _FORBIDDEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
