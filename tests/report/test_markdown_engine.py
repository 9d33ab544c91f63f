"""`summary.md` of a report with an engine: speed, estimate, and what became of each layer."""

from dataclasses import replace

import pytest

from prox24_export.report.content import verdict
from prox24_export.report.markdown import render
from prox24_export.results.engine import EngineReport
from tests.report.example import build, full


def test_a_measured_speed_up_is_in_the_verdict_with_its_interval() -> None:
    first = render(full()).splitlines()[0]
    assert ". Speed-up 1.23 × (1.19 to 1.27) with TensorRT 10.16.1 fp16, clip 1×98×40: faster." in first


def test_every_latency_says_whether_it_can_be_trusted() -> None:
    text = render(full())
    assert "|clip 1×98×40|0.812 ms, p99 0.8438|0.66 ms, p99 0.6859|1.23 × (1.19 to 1.27)|1.11 × (1.06 to 1.15)|" in text
    assert "|not valid: sparse: coefficient of variation 3.1 %, more than 2.5 %|" in text
    assert "## Latency with TensorRT 10.16.1 fp16 on NVIDIA A30" in text


def test_a_first_measurement_that_is_not_valid_gives_no_speed_up() -> None:
    engine = full().engine
    assert engine is not None
    said = verdict(replace(full(), engine=replace(engine, latency=engine.latency[1:])))
    assert "Speed-up not valid (TensorRT 10.16.1 fp16, clip 8×98×40): sparse: coefficient of variation 3.1 %" in said
    assert "1.02" not in said


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (EngineReport("none", not_measured="no GPU was found"), "Speed-up not measured: no GPU was found."),
        (EngineReport("none"), "Speed-up not measured: nothing was timed."),
    ],
)
def test_why_nothing_was_measured_is_said_and_nothing_else(engine: EngineReport, said: str) -> None:
    text = render(build(engine=engine))
    assert said in text.splitlines()
    assert "## Latency" not in text
    assert "speed-up" not in text.splitlines()[0]


def test_without_an_engine_nothing_is_said_of_speed() -> None:
    assert "peed-up" not in render(build())


def test_the_estimate_is_labelled_wherever_it_stands() -> None:
    text = render(full())
    assert "\n*Estimate*, not a measurement: 74 % of the linear layers’ operations are in pruned layers;" in text
    assert "## *Estimate*: where the operations are" in text
    bound = [line for line in text.splitlines() if "1.59 ×" in line]
    assert bound
    assert all("*Estimate*" in line for line in bound)


def test_states_are_counted_and_layers_without_one_have_reason_and_remedy() -> None:
    text = render(full())
    assert "|2:4 pattern right|9 of 9|" in text
    assert "|eligible for sparse tactics|7 of 9, 1 unknown|" in text
    assert "|sparse tactic chosen|6 of 9, 1 unknown|" in text
    row = "|`/encoder/layers.0/k_proj/MatMul`|yes, yes, no|a dense tactic was faster by 0.0031 ms|try a larger batch|"
    assert row in text


def test_two_engines_that_were_timed_have_no_layers() -> None:
    said = verdict(replace(full(), layers=(), accuracy=None))
    assert said.startswith("Layers were not looked at; ")
    assert ". Speed-up 1.23 ×" in said
