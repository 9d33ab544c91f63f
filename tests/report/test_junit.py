"""`junit.xml`: accepted by a strict parser, whatever names hold; gates, doubts and what was not measured told apart."""

import math
import re
from dataclasses import replace
from xml.etree.ElementTree import Element, ParseError, fromstring

import pytest
from hypothesis import HealthCheck, given, settings

from prox24_export.report import junit
from prox24_export.results.engine import EngineReport
from prox24_export.results.report import Gate, Report
from tests.report.example import build, full, layer, nothing_eligible, only_dense
from tests.report.reports import reports

# What junit-10.xsd of Jenkins' xUnit plugin, the strictest in use, allows: required and other attributes, children.
COUNTS = {"tests", "failures", "errors"}
RULES: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", *COUNTS}, {"testsuite"}),
    "testsuite": (
        {"name", *COUNTS},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": (
        {"name"},
        {"time", "classname", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    **{tag: (set(), {"type", "message"}, set()) for tag in ("skipped", "error", "failure")},
    **{tag: (set(), set(), set()) for tag in ("system-out", "system-err")},
}
TEXTS = {"failure", "error", "skipped", "system-out", "system-err"}
SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")  # of the schema's SUREFIRE_TIME what we may write


def strictly(text: str) -> Element:
    """The document, if it follows every rule and its counts are true."""
    root = fromstring(text.encode())  # noqa: S314 - our own text
    assert root.tag == "testsuites"
    for element in root.iter():
        needed, other, children = RULES[element.tag]
        assert needed <= set(element.attrib) <= needed | other, element.tag
        assert {child.tag for child in element} <= children, element.tag
        assert (
            element.tag in {"failure", "error", "skipped", "system-out", "system-err"}
            or not (element.text or "").strip()
        )
        assert SECONDS.fullmatch(element.get("time", "0")), element.get("time")
    for element in (root, *root.iter("testsuite")):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if name in element.attrib:
                assert element.get(name) == str(sum(case.find(tag) is not None for case in cases)), name
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    return root


def case(report: Report, name: str) -> Element:
    (found,) = (entry for entry in strictly(junit.render(report)).iter("testcase") if entry.get("name") == name)
    return found


def gate(**changes: object) -> Report:
    return build(gates=(replace(Gate("min-snr", 17.0, 15.0, "dB", passed=True), **changes),))  # type: ignore[arg-type]


def test_a_gate_that_passed_is_a_case_and_nothing_more() -> None:
    found = case(gate(verdict="passed"), "min-snr")
    assert found.get("classname") == "prox24-export.gates"
    assert not list(found)


def test_a_failed_gate_is_a_failure_with_value_and_limit() -> None:
    (failure,) = case(gate(passed=False, value=14.2, low=13.9, high=14.6), "min-snr")
    assert failure.tag == "failure"
    assert failure.get("type") == "limit"
    assert failure.get("message") == "failed: 14.2 dB (13.9 to 14.6), limit at least 15 dB"


@pytest.mark.parametrize(("passed", "tag"), [(False, "failure"), (True, "skipped")])
def test_an_inconclusive_gate_says_so_whether_it_stops_the_run_or_not(passed: bool, tag: str) -> None:
    (found,) = case(gate(passed=passed, verdict="inconclusive"), "min-snr")
    assert (found.tag, found.get("type")) == (tag, "inconclusive")


def test_a_gate_without_a_value_is_not_measured() -> None:
    (failure,) = case(gate(passed=False, value=None), "min-snr")
    assert failure.get("message") == "failed: not measured, limit at least 15 dB"


def test_verification_is_a_case_with_its_time() -> None:
    assert case(full(), "2:4 pattern of 9 layers").get("time") == "0.400"
    assert case(build(layers=(layer(0),)), "2:4 pattern of 1 layer").get("classname") == "prox24-export.verification"


def test_nothing_to_verify_is_not_a_success() -> None:
    (skipped,) = case(nothing_eligible(), "2:4 pattern")
    assert skipped.get("message") == "Nothing eligible: model.onnx is a byte copy of the input."


def test_a_budget_that_only_the_dense_model_keeps_is_not_called_nothing_eligible() -> None:
    (skipped,) = case(only_dense(), "2:4 pattern")
    assert skipped.get("type") == "only-dense"
    assert (skipped.get("message") or "").startswith("Only the dense model keeps the limit: none of 12")


def test_a_budget_adds_no_case() -> None:
    names = [entry.get("name") for entry in strictly(junit.render(full())).iter("testcase")]
    assert names == [
        entry.get("name") for entry in strictly(junit.render(replace(full(), budget=None))).iter("testcase")
    ]


def test_a_latency_that_is_not_valid_or_not_measured_is_skipped_with_its_reason() -> None:
    assert not list(case(full(), "clip 1×98×40"))
    (skipped,) = case(full(), "clip 8×98×40")
    assert "coefficient of variation" in (skipped.get("message") or "")
    (skipped,) = case(build(engine=EngineReport("none", not_measured="no GPU was found")), "measured")
    assert skipped.get("message") == "speed-up not measured: no GPU was found"


def test_facts_and_warnings_stand_beside_the_cases() -> None:
    root = strictly(junit.render(full()))
    facts = {entry.get("name"): entry.get("value") for entry in root.iter("property")}
    assert facts["top1 sparse"] == "97.2"
    assert facts["output"] == f"kwt1-2to4/model.onnx {'b' * 64}"
    assert "at most 1.59 ×" in (facts["estimate (not a measurement)"] or "")
    assert "warning: 12 samples were left out" in (root.findtext(".//system-out") or "")


def test_control_characters_are_shown_and_break_nothing() -> None:
    name = "a\x00b\x1b[31m\ud800\ufffe]]><&\"'\r\n\t"
    report = replace(full(), gates=(Gate(name, 1, 2, name, passed=False),), warnings=(name,), versions={name: name})
    text = junit.render(report)
    root = strictly(text)
    (failed,) = (entry for entry in root.iter("testcase") if entry.find("failure") is not None)
    assert (failed.get("name") or "").startswith(r"a\x00b\x1b[31m\xd800\xfffe]]><&")


def test_seconds_that_are_no_number_are_none() -> None:
    root = strictly(junit.render(build(seconds={"total": math.inf, "verify": -1.0})))
    assert root.get("time") == "0.000"


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(reports())
def test_any_report_is_well_formed(report: Report) -> None:
    one_of_each = {gate.name: gate for gate in report.gates}
    points = {str(index): point for index, point in enumerate(report.engine.latency[:1])} if report.engine else {}
    engine = report.engine and replace(report.engine, latency=tuple(points.values()))
    strictly(junit.render(replace(report, gates=tuple(one_of_each.values())[:1], engine=engine)))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('name="min-snr"', 'nam="min-snr"'),
        ("</testsuites>", ""),
        ('failures="3"', 'failures="2"'),
        ('tests="8"', 'tests="9"'),
        ('skipped="2"', 'skipped="0"'),
        ('time="112.500"', 'time="inf"'),
        ('time="112.500"', 'time="-1.0"'),
        ("<testcase ", "<test "),
        ("<skipped ", "<ignored "),
        ("<system-out>", "<system-out>\x1b"),
        ('name="min-speedup"', 'name="min-snr"'),
        ("<properties>", '<properties count="1">'),
        ("<properties>", "<properties>words"),
        ("1096 samples", "&nbsp;"),
        ('name="version"', ""),
    ],
)
def test_the_strict_parser_refuses_a_planted_breakage(good: str, bad: str) -> None:
    text = junit.render(full()).replace("12 samples", "1096 samples")
    assert good in text
    strictly(text)
    with pytest.raises((AssertionError, KeyError, ParseError)):
        strictly(text.replace(good, bad))
