"""The user's own metric, through the command."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.results.change import Change
from prox24_export.results.report import AccuracyReport
from prox24_export.settings import Settings
from prox24_export.validation.custom_metric import Measured, add_metrics, measure_samples
from prox24_export.validation.gates import evaluate_gates
from tests.command import in_process, network, samples
from tests.graphs import normal

METRICS = """\
import numpy as np

def spread(run, batches):
    print("not for stdout")
    outputs = [run(feeds)["y"] for feeds, labels in batches]
    return float(np.std(np.concatenate(outputs)))

def two(run, batches):
    return {"rows": sum(len(labels) for _, labels in batches), "names": len(run(batches[0][0]))}

def text(run, batches):
    return "high"

def fails(run, batches):
    raise RuntimeError("no reference")
"""


def prepared(folder: Path) -> None:
    network(folder)
    samples(folder)
    np.savez(folder / "labelled.npz", x=normal(12, 8), labels=np.zeros(12, np.int64))
    (folder / "own_metrics.py").write_text(METRICS, encoding="utf-8")


@pytest.mark.parametrize(("name", "expected"), [("spread", {"spread"}), ("two", {"rows", "names"})])
def test_both_models_are_measured_and_reported(name: str, expected: set[str], tmp_path: Path, capfd: Any) -> None:
    prepared(tmp_path)
    data = ("--calibration", "data.npz", "--evaluation", "labelled.npz")
    metric = ("--metric", f"own_metrics:{name}")
    outcome = in_process("net.onnx", *data, *metric, "-o", "out", folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome
    assert "not for" not in outcome.stdout
    accuracy = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["accuracy"]
    assert set(accuracy["dense"]) == set(accuracy["sparse"]) == expected | {"top1"}
    if name == "spread":
        assert 0 < accuracy["sparse"]["spread"] != accuracy["dense"]["spread"]
    else:
        assert (accuracy["dense"]["rows"], accuracy["dense"]["names"]) == (12, 1)
    assert all(metric in outcome.stdout for metric in expected)


@pytest.mark.parametrize(
    ("name", "said"), [("text", "returned 'high'"), ("fails", "RuntimeError: no reference"), ("none", "no attribute")]
)
def test_a_metric_that_gives_no_number_is_refused(name: str, said: str, tmp_path: Path, capfd: Any) -> None:
    prepared(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--metric", f"own_metrics:{name}")
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert not (tmp_path / "net-2to4").exists()


BY_SAMPLE = """\
import numpy as np

def rows(run, batches):
    return np.concatenate([run(feeds)["y"][:, 0] for feeds, _ in batches])

def hits(run, batches):
    return {"hits": [bool(value > 0) for value in rows(run, batches)], "plain": 3}

hits.better = {"hits": "higher"}

def wer(run, batches):
    return np.array([1, 0, 3]), np.array([4, 2, 4])

wer.better = "lower"

def uneven(run, batches):
    return np.ones(3), np.ones(2)

def nothing(run, batches):
    return np.ones(3), np.zeros(3)

def words(run, batches):
    return "high"

def infinite(run, batches):
    return np.array([1.0, np.inf])

def ragged(run, batches):
    return [[1, 2], [3]]

def endless(run, batches):
    return [10 ** 400, 1]

def misled(run, batches):
    return 1.0

misled.better = "upwards"
"""


def of(name: str, outputs: Array, *, is_sparse: bool = False) -> Measured:
    batches = [({"x": np.arange(3)}, None)]
    return measure_samples(
        f"by_sample:{name}", lambda feeds: [outputs[feeds["x"]]], ["y"], batches, is_sparse=is_sparse
    )


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by_sample.py").write_text(BY_SAMPLE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
def test_a_metric_by_sample_is_the_mean_and_gets_an_interval() -> None:
    outputs = normal(3, 2)
    dense, sparse = of("rows", outputs), of("rows", outputs - [[0.1], [0.2], [0.3]])
    assert dense.values == {"rows": pytest.approx(float(outputs[:, 0].mean()))}
    kept = Change("top1", -1.0, -2.0, 0.0, 3)
    report = add_metrics(
        AccuracyReport(3, {"top1": 1.0}, {"top1": 0.0}, (), (kept,), {"top1": "higher"}), dense, sparse
    )
    assert report.changes[0] == kept
    found = report.changes[1]
    assert (found.metric, found.samples) == ("rows", 3)
    assert found.value == pytest.approx(-0.2)
    assert found.low < -0.2 < found.high
    assert report.better == {"top1": "higher"}
    assert report.sparse["rows"] == pytest.approx(report.dense["rows"] - 0.2)


@pytest.mark.usefixtures("_here")
def test_totals_and_weights_give_the_ratio_of_their_sums_and_the_direction_is_the_function_s() -> None:
    found = of("wer", normal(3, 2))
    assert found.values == {"wer": 0.4}
    assert found.better == {"wer": "lower"}
    report = add_metrics(AccuracyReport(3, {}, {}, ()), found, found)
    (change,) = report.changes
    assert change.value == 0
    assert change.low < 0 < change.high  # words are counted: three samples without a new error are no proof
    assert report.better == {"wer": "lower"}


@pytest.mark.usefixtures("_here")
def test_hits_and_plain_numbers_stand_side_by_side() -> None:
    found = of("hits", np.array([[1.0], [-1.0], [1.0]]))
    assert found.values == {"hits": pytest.approx(2 / 3), "plain": 3.0}
    assert set(found.totals) == found.steps == {"hits"}
    assert found.better == {"hits": "higher"}


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("uneven", "as 3 totals and 2 weights that sum to 2. Expected as many of both"),
        ("nothing", "weights that sum to 0. Expected as many of both"),
        ("infinite", "every number must be finite"),
        ("ragged", "returned [[1, 2], [3]]. Expected a function that"),
        ("endless", "every number must be finite"),
        ("misled", "`better` says {'misled': 'upwards'}. Expected 'higher' or 'lower'"),
    ],
)
def test_arrays_that_are_no_metric_are_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        of(name, normal(3, 2))


@pytest.mark.usefixtures("_here")
def test_nan_of_the_sparse_model_is_a_finding_that_has_no_interval_and_passes_no_gate() -> None:
    broken = np.array([[1.0], [np.nan], [2.0]])
    with pytest.raises(InputError, match="every number must be finite"):
        of("rows", broken)
    dense, sparse = of("rows", normal(3, 1)), of("rows", broken, is_sparse=True)
    report = add_metrics(AccuracyReport(3, {}, {}, ()), dense, sparse)
    assert math.isnan(report.sparse["rows"])
    assert report.changes == ()
    (gate,) = evaluate_gates(Settings(max_metric_change=100.0), report)
    assert (gate.passed, gate.verdict) == (False, "failed")
    with pytest.raises(InputError, match="returned"):
        of("words", broken, is_sparse=True)


def test_other_names_for_the_sparse_model_are_refused() -> None:
    with pytest.raises(InputError, match="Expected the same names"):
        add_metrics(AccuracyReport(3, {}, {}, ()), Measured({"a": 1.0}, {}, {}), Measured({"b": 1.0}, {}, {}))
