"""A run with an accuracy budget: what is left dense, and what the limit says of samples not searched on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export import Settings
from prox24_export.budget import keep
from prox24_export.budget.judges import Judges, divide_samples, make_limit_judge, prepare_judges, prepare_measure
from prox24_export.budget.keep import keep_budget, measure_job_sensitivity
from prox24_export.budget.search import Search, StoredWeights
from prox24_export.budget.sensitivity import make_variant
from prox24_export.data.batches import join_samples
from prox24_export.data.sample_list import Sample
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.progress import Silent
from prox24_export.report.budget_tables import main_steps
from prox24_export.report.terminal_budget import WIDTH, budget_table, sensitivity_table
from prox24_export.results.budget import CONFIRMING
from prox24_export.results.report import AccuracyReport
from prox24_export.stages.journal import Journal
from prox24_export.stages.prepare import Job, name_model, prepare
from prox24_export.stages.prune import PrunedLayers
from prox24_export.stages.run import Run
from prox24_export.stages.solve import solve
from prox24_export.validation import accuracy
from prox24_export.validation.gates import evaluate_gates
from tests.graphs import is_two_four, model, normal, save

DEEP = """g (float[N,16] x) => (float[N,8] y) {
    a = MatMul(x, w0) r = Relu(a) d = MatMul(r, w1) t = Relu(d) e = MatMul(t, w2) u = Relu(e) y = MatMul(u, w3) }"""
WEIGHTS = {
    "w0": normal(16, 32) / 4,
    "w1": normal(32, 32, seed=1) / 4,
    "w2": normal(32, 32, seed=2) / 4,
    "w3": normal(32, 8, seed=3) / 4,
}


@dataclass
class Pipeline:
    """A run up to the solved weights, as the pipeline has it."""

    folder: Path
    settings: Settings

    def __post_init__(self) -> None:
        path = save(model(DEEP, WEIGHTS), self.folder)
        x = normal(600, 16, seed=5)
        sides = [{"x": row[None]} for row in normal(200, 16, seed=6)]
        dense = [Sample({"x": row[None]}) for row in x]
        self.run = Run()
        evaluation = [{"x": row.feeds["x"], "labels": np.array([0])} for row in dense]
        self.job: Job = prepare(name_model(path, sides, self.folder / "out"), evaluation, self.settings, self.run)
        scores = np.concatenate([self.job.graph.runner()(sample.feeds)[0] for sample in self.job.parts.report])
        labels = (6 * scores + np.random.default_rng(0).gumbel(size=scores.shape)).argmax(-1)
        labelled = [
            replace(sample, labels=label[None]) for sample, label in zip(self.job.parts.report, labels, strict=True)
        ]
        self.searched, self.confirmed, self.reported = divide_samples(labelled, seed=0, in_order=False)
        solved = solve(self.job, self._made("scratch"), self.run, Journal())
        self.weights: StoredWeights = solved.weights
        self.pruned = solved.pruned

    def _made(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def measure(self, samples: Sequence[Sample]) -> Callable[[Any], AccuracyReport]:
        batches = list(join_samples(samples, self.job.graph.inputs, 64))
        dense, names = make_variant(self.job.graph, {}), self.job.graph.outputs
        return lambda run: accuracy.compare_models(dense, run, names, batches, samples=len(samples), tick=lambda: None)

    def judges(self) -> Judges:
        looked_at = (self.searched, self.confirmed)
        search, confirm = (
            make_limit_judge(self.job, part, self.measure(part), reported=len(self.reported)) for part in looked_at
        )
        return Judges(search, confirm, sum(map(len, looked_at)))

    def keep(self, **more: Any) -> tuple[PrunedLayers, Any]:
        options: dict[str, Any] = {"again": True, "scratch": self._made("again")} | more
        rows, self.weights, report = keep_budget(
            self.job, self.pruned, self.weights, self.judges(), run=self.run, **options
        )
        return rows, report


def test_a_limit_between_dense_and_pruned_is_kept_on_samples_that_the_search_did_not_see(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=6.0))
    before = {row.name: row for row in line.pruned.layers}
    rows, report = line.keep(errors=2.0)
    assert report.verdict == "kept"
    assert 0 < len(report.dense) < 4
    assert {row.name for row in rows.layers if row.state == "dense"} == set(report.dense)
    for row in rows.layers:
        assert (row.weight in line.weights) == (row.state == "sparse")
        if row.state == "dense":
            assert row.reason.startswith("left dense to keep the accuracy budget (")
            assert row.relative_error == before[row.name].relative_error
        else:
            assert is_two_four(line.weights[str(row.weight)].T)
    assert report.parameters == sum(row.parameters for row in rows.layers if row.state == "dense")
    assert report.ending is not None
    assert report.ending.parameters == report.parameters
    assert [decision.state for decision in report.decisions] == [row.state for row in rows.layers]
    held = line.measure(line.reported)(make_variant(line.job.graph, line.weights))
    assert held.dense["top1"] - held.sparse["top1"] <= 6.0


def test_a_search_that_fails_at_its_end_leaves_the_solved_weights_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    line = Pipeline(tmp_path, Settings(max_accuracy_drop=0.0))
    solved, before = line.weights, {name: line.weights[name] for name in line.weights}
    monkeypatch.setattr(keep, "_make_report", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        line.keep()
    assert solved.keys() == before.keys()
    for name, weight in before.items():
        np.testing.assert_array_equal(solved[name], weight)


def test_a_limit_that_only_the_dense_model_keeps_leaves_no_layer_sparse(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=0.0))
    rows, report = line.keep()
    assert report.verdict == "only dense"
    assert not line.weights
    assert all(row.state == "dense" for row in rows.layers)
    assert "only the dense model keeps the limit" in budget_table(report)
    held = line.measure(line.reported)(make_variant(line.job.graph, line.weights))
    limits = Settings(max_accuracy_drop=0.0, min_sparse_layers=1)
    verdicts = {gate.name: gate.passed for gate in evaluate_gates(limits, held, layers=rows.layers, is_copy=True)}
    assert verdicts == {"max-accuracy-drop": True, "min-sparse-layers": False}


def test_a_limit_that_the_pruned_model_keeps_needs_two_measurements(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=100.0))
    names = list(line.weights)
    rows, report = line.keep()
    assert report.verdict == "not needed"
    assert list(line.weights) == names
    assert list(rows.layers) == list(line.pruned.layers)
    assert [point.order for point in report.curve] == ["everything pruned", CONFIRMING]


def test_without_solving_again_the_weights_stay_as_they_were(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=3.0))
    before = {name: line.weights[name] for name in line.weights}
    _, report = line.keep(again=False)
    assert not report.solved_again
    assert set(line.weights) < set(before)
    for name in line.weights:
        np.testing.assert_array_equal(line.weights[name], before[name])


def test_the_same_search_twice_finds_the_same(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _, report = Pipeline(tmp_path / name, Settings(max_accuracy_drop=3.0)).keep()
        found.append(replace(report, seconds=0.0))
    assert found[0] == found[1]


def test_what_is_needed_and_not_there_is_said(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=3.0))
    bare = [replace(sample, labels=None) for sample in line.searched]
    with pytest.raises(InputError, match="needs labels"):
        make_limit_judge(line.job, bare, line.measure(bare), reported=9)
    with pytest.raises(InputError, match="needs a limit to keep"):
        make_limit_judge(replace(line.job, settings=Settings()), bare, line.measure(bare), reported=9)
    empty = replace(line.job, parts=replace(line.job.parts, choice=()))
    with pytest.raises(InputError, match="held-back calibration samples"):
        measure_job_sensitivity(empty, line.weights, line.pruned.layers, Silent())


def test_the_users_metric_is_measured_of_dense_and_variant(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_metric_change=0.5, metric="tests.budget.test_keep_run:mean_size"))
    job, judges = prepare_judges(replace(line.job, settings=replace(line.job.settings, budget=True)))
    assert judges is not None
    assert judges.samples + len(job.parts.report) == len(line.job.parts.report)
    assert job.facts is not None
    assert job.facts.report == len(job.parts.report)
    unlabelled = [replace(sample, labels=None) for sample in line.searched]
    found = prepare_measure(job, unlabelled)(make_variant(job.graph, zeros("w3")))
    assert found.sparse["mean_size"] == 0
    assert found.dense["mean_size"] > 0
    figures = make_limit_judge(job, unlabelled, prepare_measure(job, unlabelled), reported=9)(
        make_variant(job.graph, zeros("w3"))
    )
    assert [figure.metric for figure in figures] == ["mean_size"]
    assert figures[0].value == pytest.approx(found.dense["mean_size"])


def zeros(name: str) -> dict[str, Array]:
    return {name: np.zeros_like(WEIGHTS[name])}


def mean_size(run: Any, batches: Any) -> float:
    return float(np.mean([np.abs(run(feeds)["y"]).mean() for feeds, _ in batches]))


def test_both_limits_are_kept_together(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=5.0))
    line.job = replace(line.job, settings=replace(line.settings, max_metric_change=0.5))  # of a metric that comes below
    report = AccuracyReport(9, {"own": 1.0}, {"own": 3.0}, ())
    limits = make_limit_judge(line.job, line.searched, lambda _: report, reported=len(line.reported))
    figures = limits(make_variant(line.job.graph, {}))
    assert [(figure.metric, figure.value, figure.limit) for figure in figures] == [
        ("top1", 0.0, 5.0),
        ("own", 2.0, 0.5),
    ]
    graph, found, sensitivity, solved = searching(line)
    choice = Search(graph, found, sensitivity, solved, limits).run()
    assert len(choice.dense) == 4


def searching(line: Pipeline) -> tuple[Any, ...]:
    sensitivity, found = measure_job_sensitivity(line.job, line.weights, line.pruned.layers, Silent())
    return line.job.graph, found, sensitivity, line.weights


def test_the_tables_fit_100_columns_and_name_what_was_measured(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=3.0))
    _, report = line.keep()
    long = replace(report.sensitivity.units[0], name="layer/" * 40 + "end", parameters=1_234_567_890)
    sensitivity = replace(report.sensitivity, units=(long, *report.sensitivity.units[1:]))
    report = replace(report, sensitivity=sensitivity)
    tables = [sensitivity_table(sensitivity), budget_table(report)]
    for table in tables:
        assert max(map(len, table.splitlines())) <= WIDTH
    assert "layer/end" in tables[0]
    assert f"{report.sensitivity.pruned:.4g} with all 4 pruned" in tables[0]
    assert sum(line.startswith("  dense: ") for line in tables[1].splitlines()) == len(report.dense)
    steps = len(main_steps(report))
    assert tables[1].count("keeps ") + tables[1].count("misses") == steps
    assert f"\n  {len(report.curve) - steps} more variants measured: report.html has all\n" in tables[1]
