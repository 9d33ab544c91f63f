"""`summary.md` stays small enough for a CI run's page, whatever the report holds."""

from dataclasses import replace

import pytest

from prox24_export.report.markdown import render
from prox24_export.results.engine import Estimate, LayerDiagnosis, ShapeShare
from prox24_export.results.report import (
    AccuracyReport,
    DataFacts,
    FileFacts,
    Gate,
    OutputReport,
    RefinementReport,
    Report,
)
from tests.report.example import build, full
from tests.report.markdown_examples import MOST_BYTES, huge


def test_a_thousand_layers_stay_under_sixty_kilobytes() -> None:
    text = render(build(1000))
    worst = max(build(1000).sparse_layers, key=lambda entry: entry.relative_error or 0)
    assert len(text.encode()) < MOST_BYTES
    assert f"`{worst.name}`" in text
    assert text.count(" more rows left out; report.json has them all.") == 2


def heavy(count: int) -> Report:
    """Everything that a report can hold, `count` times and long, in letters that take most bytes."""
    long, report, engine = "*名" * 500, build(count), full().engine
    assert engine is not None
    outputs = tuple(OutputReport(f"{long}{i}", 3.0, 0.5, 1.0, 0.5, 2.0, 4.0, 9.0) for i in range(count))
    metrics = {f"{long}{i}": 1.0 for i in range(count)}
    states = LayerDiagnosis(long, True, False, None, long, long, long, long, long)
    point = replace(engine.latency[1], shapes={long: (1, 2)}, reasons=(long,) * 9)
    return replace(
        report,
        tool=long,
        versions=dict.fromkeys(metrics, long),
        warnings=tuple(f"{i}{long}" for i in range(count)),
        gates=tuple(Gate(f"{long}{i}", 1.0, 2.0, long, passed=False) for i in range(count)),
        accuracy=AccuracyReport(1, metrics, metrics, outputs),
        layers=tuple(
            replace(entry, name=long, op=long, reason=f"{entry.reason and i}{long}", notes=(long,))
            for i, entry in enumerate(report.layers)
        ),
        data=DataFacts(long, long, 1, 1, 1, is_random=True),
        input=FileFacts(long, 1, "a" * 64),
        refinement=replace(report.refinement or RefinementReport(False, ""), reason=long, mode=long),
        estimate=Estimate(1.0, 1.0, 2.0, (ShapeShare(1, 1, 1, 1, 1, 1.0, 1.0),) * count, (long,) * count),
        budget=huge(long, count),
        engine=replace(
            engine,
            version=long,
            device=long,
            precision=long,
            layers=(states,) * count,
            latency=(point,) * count,
            disagreements=(long,) * count,
            accuracy=metrics,
            kept_in_fp32=dict.fromkeys(metrics, long),
        ),
    )


@pytest.mark.parametrize("count", [20, 100, 1000])
def test_any_report_stays_under_sixty_kilobytes(count: int) -> None:
    text = render(heavy(count))
    assert len(text.encode()) < MOST_BYTES
    assert text.count("left out; report.json has them all.") >= 10


def test_a_thousand_layers_in_an_engine_stay_under_sixty_kilobytes() -> None:
    report, engine = build(1000), full().engine
    assert engine is not None
    states = tuple(replace(engine.layers[1], name=entry.name) for entry in report.sparse_layers)
    text = render(replace(full(), layers=report.layers, engine=replace(engine, layers=states)))
    assert len(text.encode()) < MOST_BYTES
    assert "|sparse tactic chosen|0 of 750|" in text


def test_long_names_and_many_warnings_stay_under_sixty_kilobytes() -> None:
    long = tuple(replace(entry, name="名" * 999 + str(i), notes=("n" * 999,)) for i, entry in enumerate(build().layers))
    outputs = tuple(OutputReport("o" * 999, 3.0, 0.5, 1.0, 0.5) for _ in range(500))
    report = build(layers=long, warnings=tuple(f"{i}" * 99 for i in range(999)))
    text = render(replace(report, accuracy=AccuracyReport(1, {}, {}, outputs)))
    assert len(text.encode()) < MOST_BYTES
    assert "more warnings left out" in text
