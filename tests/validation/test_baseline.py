"""Planted regressions are caught, equal runs pass, and what cannot be compared is said."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prox24_export.errors import InputError
from prox24_export.results.change import Change
from prox24_export.results.engine import Distribution, EngineReport, LatencyPoint, Ratio
from prox24_export.results.reader import load_report
from prox24_export.results.report import AccuracyReport, Gate, OutputReport, Report
from prox24_export.validation.baseline import BaselineComparison, compare_with_baseline
from tests.report.example import build


def times(median: float) -> Distribution:
    return Distribution(100, median, median, median, median, median, median, median, 1000 / median, 0.01)


def timed(sparse: float, batch: int = 1, *, valid: bool = True) -> LatencyPoint:
    ratio = Ratio(2 / sparse, 2 / sparse, 2 / sparse, "faster")
    reasons = () if valid else ("the times vary by 9.1 %",)
    return LatencyPoint({"x": (batch, 8)}, batch, times(2.0), times(sparse), None, ratio, None, valid, reasons)


def engine(*points: LatencyPoint, **changes: Any) -> EngineReport:
    found = EngineReport("tensorrt", "10.16.1", "fp16", "NVIDIA A100", latency=points or (timed(1.5), timed(4.0, 8)))
    return replace(found, **changes)


def accuracy(top1: float = 97.2, half: float = 0.8, **changes: Any) -> AccuracyReport:
    change = Change("top1", top1 - 97.6, top1 - 97.6 - half, top1 - 97.6 + half, 1000)
    found = AccuracyReport(
        1000,
        {"top1": 97.6, "perplexity": 12.0},
        {"top1": top1, "perplexity": 13.0},
        (),
        (change,),
        {"top1": "higher", "perplexity": "lower"},
    )
    return replace(found, **changes)


EARLIER = build(accuracy=accuracy(), engine=engine())


def against(earlier: Report = EARLIER, *, strict: bool = False, **changes: Any) -> BaselineComparison:
    now = replace(earlier, **changes)
    return compare_with_baseline(earlier, now.accuracy, engine=now.engine, layers=now.layers, strict=strict)


def failed(comparison: BaselineComparison) -> list[str]:
    return [gate.name for gate in comparison.gates if not gate.passed]


@pytest.mark.parametrize("strict", [False, True])
def test_an_equal_run_passes_every_gate_without_a_warning(strict: bool) -> None:
    comparison = against(strict=strict)
    assert failed(comparison) == []
    assert comparison.warnings == ()
    names = {"baseline top1", "baseline perplexity", "baseline latency", "baseline sparse layers"}
    assert {gate.name for gate in comparison.gates} == names | ({"baseline top1, bad end"} if strict else set())


def test_an_equal_run_read_back_from_its_file_passes(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(EARLIER.to_json(), "utf-8")
    for path in (tmp_path, tmp_path / "report.json"):
        assert failed(against(load_report(path), strict=True)) == []


@pytest.mark.parametrize(("drop", "caught"), [(0.5, True), (0.3, True), (0.2, False), (0.0, False), (-1.0, False)])
def test_a_drop_of_half_a_point_is_caught_and_an_image_of_500_is_not(drop: float, caught: bool) -> None:
    comparison = against(accuracy=accuracy(97.2 - drop))
    assert failed(comparison) == (["baseline top1"] if caught else [])
    gate = comparison.gates[0]
    assert gate.value == pytest.approx(drop)
    assert (gate.limit, gate.unit) == (0.25, "points")


def test_a_metric_that_got_worse_by_more_than_one_per_cent_is_caught() -> None:
    for value, caught in ((13.2, True), (13.1, False), (5.0, False)):
        now = accuracy(sparse={"top1": 97.2, "perplexity": value})
        assert failed(against(accuracy=now)) == (["baseline perplexity"] if caught else [])


def test_a_metric_whose_direction_nobody_told_may_move_neither_way() -> None:
    earlier = build(accuracy=accuracy(dense={"mine": 1.0}, sparse={"mine": 1.0}, better={}, changes=()))
    for value, caught in ((1.02, True), (0.98, True), (1.005, False)):
        now = accuracy(dense={"mine": 1.0}, sparse={"mine": value}, better={}, changes=())
        assert failed(against(earlier, accuracy=now)) == (["baseline mine"] if caught else [])


def test_a_metric_that_is_no_longer_measured_does_not_pass() -> None:
    assert failed(against(accuracy=accuracy(sparse={"top1": 97.2}))) == ["baseline perplexity"]
    assert failed(against(accuracy=None)) == ["baseline top1", "baseline perplexity"]


def test_under_strict_the_bad_ends_are_compared_too() -> None:
    unsure = accuracy(half=2.0)
    assert failed(against(accuracy=unsure)) == []
    assert failed(against(accuracy=unsure, strict=True)) == ["baseline top1, bad end"]
    assert failed(against(accuracy=accuracy(changes=()), strict=True)) == ["baseline top1, bad end"]
    assert failed(against(accuracy=accuracy(half=0.1), strict=True)) == []


def test_without_metrics_the_worst_output_s_agreement_counts() -> None:
    def outputs(*ratios: float | None) -> AccuracyReport:
        return AccuracyReport(9, {}, {}, tuple(OutputReport("y", ratio, 1.0, 0.0, None) for ratio in ratios))

    earlier = build(accuracy=outputs(30.0, None))
    for now, caught in ((outputs(28.0), True), (outputs(29.5), False), (outputs(None), False), (outputs(), True)):
        assert failed(against(earlier, accuracy=now)) == (["baseline snr"] if caught else [])
    broken = AccuracyReport(9, {}, {}, (OutputReport("y", -math.inf, 0.0, math.inf, None, not_finite=1),))
    assert failed(against(build(accuracy=broken), accuracy=broken)) == ["baseline snr"]  # NaN is not as good as NaN
    same = build(accuracy=outputs(None))
    assert failed(against(same)) == []
    assert failed(against(same, accuracy=outputs(60.0))) == ["baseline snr"]


def test_the_share_of_equal_entries_must_not_fall_where_outputs_hold_no_floats() -> None:
    def labels(*shares: float) -> AccuracyReport:
        return AccuracyReport(
            9, {}, {}, tuple(OutputReport("y", None, None, None, None, equal=share) for share in shares)
        )

    earlier = build(accuracy=labels(0.9, 1.0))
    for now, caught in ((labels(0.9, 0.95), False), (labels(0.89), True), (labels(1.0), False), (labels(), True)):
        assert failed(against(earlier, accuracy=now)) == (["baseline equal entries"] if caught else [])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_no_improvement(value: float) -> None:
    now = accuracy(sparse={"top1": 97.2, "perplexity": value})
    assert failed(against(accuracy=now)) == ["baseline perplexity"]
    assert failed(against(build(accuracy=now), accuracy=now)) == ["baseline perplexity"]


@pytest.mark.parametrize(("factor", "caught"), [(1.05, True), (1.04, True), (1.02, False), (1.0, False), (0.5, False)])
def test_a_slow_down_of_five_per_cent_is_caught_at_any_shapes(factor: float, caught: bool) -> None:
    comparison = against(engine=engine(timed(1.5), timed(4.0 * factor, 8)))
    assert failed(comparison) == (["baseline latency"] if caught else [])
    (gate,) = [gate for gate in comparison.gates if gate.name == "baseline latency"]
    assert gate.value == pytest.approx(max(0.0, 100 * (factor - 1)))
    assert (gate.limit, gate.unit) == (3.0, "%")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (engine(timed(9.0), device="NVIDIA H100"), "its device is NVIDIA A100, this run's is NVIDIA H100."),
        (engine(timed(9.0), precision="bf16"), "its precision is fp16, this run's is bf16."),
        (engine(timed(9.0), engine="torch"), "its engine is tensorrt, this run's is torch."),
        (engine(timed(9.0, 64)), "no input shapes were timed in both runs."),
        (engine(timed(9.0, valid=False)), "figures of one run are not valid (the times vary by 9.1 %)."),
        (EngineReport("none"), "it was measured there and not here."),
        (None, "it was measured there and not here."),
    ],
)
def test_what_cannot_be_compared_is_a_warning_and_no_verdict(now: EngineReport | None, said: str) -> None:
    comparison = against(engine=now)
    assert comparison.warnings == (f"--baseline: latency is not compared: {said}",)
    assert "baseline latency" not in {gate.name for gate in comparison.gates}
    assert failed(comparison) == []


def test_another_version_is_told_and_compared_all_the_same() -> None:
    comparison = against(engine=engine(timed(1.6), version="11.4.0"))
    assert comparison.warnings == ("--baseline: tensorrt was 10.16.1 there and is 11.4.0 here.",)
    assert failed(comparison) == ["baseline latency"]


def test_a_baseline_without_latency_asks_for_none() -> None:
    comparison = against(build(accuracy=accuracy()), engine=engine())
    assert comparison.warnings == ()
    assert "baseline latency" not in {gate.name for gate in comparison.gates}


def test_one_sparse_layer_fewer_is_caught() -> None:
    layers = list(EARLIER.layers)
    place = next(index for index, layer in enumerate(layers) if layer.state == "sparse")
    layers[place] = replace(layers[place], state="dense")
    count = len(EARLIER.sparse_layers)
    comparison = against(layers=tuple(layers))
    assert comparison.gates[-1] == Gate(
        "baseline sparse layers", count - 1.0, count, "layers", passed=False, verdict="failed"
    )


def test_other_samples_and_another_dense_model_are_told() -> None:
    (other,) = against(accuracy=accuracy(samples=500)).warnings
    assert "measured on 1000 samples, this run on 500" in other
    (moved,) = against(accuracy=accuracy(dense={"top1": 97.5, "perplexity": 12.0})).warnings
    assert "has another top1 of the dense model" in moved


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"schema_version": 99})])
def test_what_is_no_report_is_refused_before_any_work(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"old\.json"):
        load_report(tmp_path / "old.json")
    with pytest.raises(InputError, match="no such report"):
        load_report(tmp_path / "none.json")
