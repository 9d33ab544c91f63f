"""The search for the fewest layers to leave dense, against exhaustive search and in the whole run."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prox24_export import Settings
from prox24_export.budget.keep import (
    Judges,
    changes,
    divided,
    keep_budget,
    limits_of,
    measure_of,
    sensitivity_of,
    set_judges_apart,
)
from prox24_export.budget.search import ORDERS, RELATIVE_ERROR, DenseChoice, LimitedFigure, Search
from prox24_export.budget.sensitivity import Unit, variant
from prox24_export.data.samples import Sample, join_samples
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear
from prox24_export.progress import Silent
from prox24_export.report.budget_tables import main_steps
from prox24_export.report.budget_text import WIDTH, budget_table, sensitivity_table
from prox24_export.results.budget import CONFIRMING, SensitivityReport, UnitSensitivity
from prox24_export.results.report import AccuracyReport, Change
from prox24_export.stages.prepare import Job, prepare
from prox24_export.stages.prune import Pruned
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
class Additive(Search):
    """Layers whose harm adds up: no model is run."""

    harm: dict[str, float] = field(default_factory=dict)
    chosen: float = 0.0  # what is left of the harm of the last choice
    helped: float = 1.0  # by which harm shrinks where layers are solved again

    def _measured(self, name: str, choice: DenseChoice) -> DenseChoice | None:
        self.judge = lambda _: [self._figure(choice)]
        return super()._measured(name, choice)

    def _holds(self, choice: DenseChoice) -> bool:
        self.chosen = self._figure(choice).value
        return super()._holds(choice)

    def _figure(self, choice: DenseChoice) -> LimitedFigure:
        left = sum(self.harm.values()) - sum(self.harm[unit.name] for unit in choice.dense)
        return LimitedFigure("m", left * (self.helped if choice.solved_again else 1.0), 0.0, 0.0, LIMIT)


LIMIT = 1.0


def additive(harm: Sequence[float], sizes: Sequence[int], errors: Sequence[float], **more: Any) -> Additive:
    names = [f"layer{index}" for index in range(len(harm))]
    layers = [
        Linear(name, "MatMul", f"w{index}", "float32", Layout((size, 4)), 4, size, ())
        for index, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    units = [Unit(layer.name, (layer,), 0, layer.parameters / sum(4 * s for s in sizes)) for layer in layers]
    rows = tuple(
        UnitSensitivity(unit.name, (unit.name,), 0, unit.parameters, unit.share, error, sum(harm) - one, one)
        for unit, one, error in zip(units, harm, errors, strict=True)
    )
    report = SensitivityReport(1, ("mse",), sum(harm), rows)
    known = dict(zip(names, harm, strict=True))
    return Additive(None, units, report, {}, lambda _: [], harm=known, **more)  # type: ignore[arg-type] # no graph


def fewest(search: Additive) -> int:
    """By trying all subsets."""
    sizes = [
        sum(unit.parameters for unit in subset)
        for count in range(len(search.found) + 1)
        for subset in itertools.combinations(search.found, count)
        if sum(search.harm.values()) - sum(search.harm[unit.name] for unit in subset) <= LIMIT + 1e-6
    ]
    return min(sizes)


LAYERS = st.lists(st.tuples(st.floats(0.01, 2), st.integers(1, 64)), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(LAYERS)
def test_where_harm_adds_up_the_limit_is_kept_and_no_single_layer_is_dense_for_nothing(layers: Any) -> None:
    harm, sizes = zip(*layers, strict=True)
    search = additive(harm, sizes, [0.0] * len(harm))
    choice = search.run()
    left = sum(harm) - sum(search.harm[unit.name] for unit in choice.dense)
    assert left <= LIMIT + 1e-6
    assert fewest(search) <= choice.parameters
    for unit in choice.dense:
        assert left + search.harm[unit.name] > LIMIT - 1e-6
    assert choice.parameters <= 2 * fewest(search) + max(4 * size for size in sizes)  # greedy: off by one layer at most


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.floats(0, 1))
def test_solving_again_never_leaves_more_dense(layers: Any, helped: float) -> None:
    harm, sizes = zip(*layers, strict=True)
    plain = additive(harm, sizes, [0.0] * len(harm)).run()
    asked = []

    def again(dense: frozenset[str]) -> dict[str, Array]:
        asked.append(dense)
        return {}

    choice = additive(harm, sizes, [0.0] * len(harm), solve_again=again, helped=helped).run()
    assert choice.parameters <= plain.parameters
    assert len(asked) == len(set(asked))


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.floats(0.5, 3))
def test_where_a_choice_does_not_hold_on_other_samples_more_layers_are_left_dense_until_it_does(
    layers: Any, truth: float
) -> None:
    harm, sizes = zip(*layers, strict=True)
    plain = additive(harm, sizes, [0.0] * len(harm)).run()
    search = additive(harm, sizes, [0.0] * len(harm))

    def confirm(model: Any) -> list[LimitedFigure]:
        assert callable(model)
        return [LimitedFigure("m", truth * search.chosen, 0.0, 0.0, LIMIT)]

    search.confirm = confirm
    choice = search.run()
    names = [unit.name for unit in choice.dense]
    assert truth * (sum(harm) - sum(search.harm[name] for name in names)) <= LIMIT + 1e-6
    assert names[: len(plain.dense)] == [unit.name for unit in plain.dense]
    confirmed = [point for point in search.curve if point.order == CONFIRMING]
    assert not any(point.fits for point in confirmed[:-1])
    added = names[len(plain.dense) :]
    assert added == sorted(added, key=lambda name: -search.harm[name] / (4 * sizes[int(name.removeprefix("layer"))]))
    assert all(search.reasons[name] == "dense because the choice did not hold on other samples" for name in added)


def test_an_order_that_knows_no_harm_leaves_more_dense() -> None:
    harm, sizes = [0.1, 0.1, 3.0, 0.1], [64, 64, 4, 64]
    errors = [0.4, 0.3, 0.1, 0.2]
    assert additive(harm, sizes, errors).run().parameters == 16
    compared = additive(harm, sizes, errors, orders=RELATIVE_ERROR)
    assert compared.run().parameters == 16  # tried sparse again, one by one
    spread = additive([0.9, 0.9, 0.9, 0.9], [64, 64, 4, 4], [0.4, 0.3, 0.2, 0.1], orders=RELATIVE_ERROR)
    assert spread.run().parameters > additive([0.9, 0.9, 0.9, 0.9], [64, 64, 4, 4], [0.0] * 4).run().parameters


def test_errors_count_towards_the_change_and_what_does_not_change_always_fits() -> None:
    figure = LimitedFigure("m", 0.8, 0.15, 0.15, 0.9)
    assert not figure.fits(1.0)
    assert figure.fits(0.5)
    assert LimitedFigure("m", 0.0, 0.0, 0.0, 0.0).fits(3.0)
    assert not LimitedFigure("m", float("nan"), 0.0, 0.0, 1.0).fits(1.0)
    assert not LimitedFigure("m", 0.0, float("inf"), float("inf"), 1.0).fits(1.0)


def test_the_error_of_a_count_asks_for_half_of_the_limit_at_most_and_the_estimates_own_for_all_of_it() -> None:
    assert LimitedFigure("m", 0.0, 0.1, 0.2, 1.0).margin(1.0) == 0.2
    assert LimitedFigure("m", 0.0, 0.1, 0.9, 1.0).margin(1.0) == 0.5
    assert LimitedFigure("m", 0.0, 0.8, 0.9, 1.0).margin(1.0) == 0.8
    assert LimitedFigure("m", 0.0, 0.1, 0.9, 1.0).margin(2.0) == 0.5


def test_a_metric_changes_in_its_bad_direction_and_in_either_where_none_is_told() -> None:
    report = AccuracyReport(
        9,
        {"top1": 90.0, "perplexity": 4.0, "psnr": 30.0, "own": 1.0},
        {"top1": 10.0, "perplexity": 3.0, "psnr": 28.0, "own": 0.5},
        (),
        (Change("psnr", -2.0, -3.96, 0.0, 9),),
        {"perplexity": "lower", "psnr": "higher"},
    )
    found = {figure.metric: (figure.value, figure.error) for figure in changes(report, 1.0)}
    assert all(figure.own == figure.error for figure in changes(report, 1.0))
    assert found == {
        "perplexity": (-1.0, 0.0),
        "psnr": (2.0, pytest.approx(1.01, abs=0.01)),
        "own": (0.5, 0.0),
    }
    (doubled,) = (figure for figure in changes(report, 1.0, 2.0) if figure.metric == "psnr")
    assert [doubled.own, doubled.error] == pytest.approx([found["psnr"][1], 2 * found["psnr"][1]])
    with pytest.raises(InputError, match="--metric module:function"):
        changes(AccuracyReport(9, {"top1": 1.0}, {"top1": 1.0}, ()), 1.0)


@settings(deadline=None)
@given(st.integers(3, 60), st.integers(0, 5), st.booleans())
def test_no_sample_is_in_two_parts(count: int, seed: int, in_order: bool) -> None:
    samples = [Sample({"x": np.array([index])}) for index in range(count)]
    parts = divided(samples, seed=seed, in_order=in_order)
    places = [[int(sample.feeds["x"][0]) for sample in part] for part in parts]
    assert sorted(itertools.chain(*places)) == list(range(count))
    assert all(part == sorted(part) and part for part in places)
    assert len(places[0]) == len(places[1]) == max(1, count // 5)
    if in_order:
        assert places[0][-1] < places[1][0]
        assert places[1][-1] < places[2][0]


def test_two_evaluation_samples_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="at least 3 evaluation samples"):
        divided([Sample({"x": normal(1)})] * 2, seed=0, in_order=False)


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
        self.job: Job = prepare(path, sides, self.folder / "out", evaluation, self.settings, self.run)
        scores = np.concatenate([self.job.graph.runner()(sample.feeds)[0] for sample in self.job.parts.report])
        labels = (6 * scores + np.random.default_rng(0).gumbel(size=scores.shape)).argmax(-1)
        labelled = [
            replace(sample, labels=label[None]) for sample, label in zip(self.job.parts.report, labels, strict=True)
        ]
        self.searched, self.confirmed, self.reported = divided(labelled, seed=0, in_order=False)
        solved = solve(self.job, self._made("scratch"), self.run)
        self.weights, self.pruned = solved.weights, solved.pruned

    def _made(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def measure(self, samples: Sequence[Sample]) -> Callable[[Any], AccuracyReport]:
        batches = list(join_samples(samples, self.job.graph.inputs, 64))
        dense, names = variant(self.job.graph, {}), self.job.graph.outputs
        return lambda run: accuracy.compare_models(dense, run, names, batches, samples=len(samples), tick=lambda: None)

    def judges(self) -> Judges:
        looked_at = (self.searched, self.confirmed)
        search, confirm = (
            limits_of(self.job, part, self.measure(part), reported=len(self.reported)) for part in looked_at
        )
        return Judges(search, confirm, sum(map(len, looked_at)))

    def keep(self, **more: Any) -> tuple[Pruned, Any]:
        options: dict[str, Any] = {"again": True, "scratch": self._made("again")} | more
        return keep_budget(self.job, self.pruned, self.weights, self.judges(), run=self.run, **options)


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
    held = line.measure(line.reported)(variant(line.job.graph, line.weights))
    assert held.dense["top1"] - held.sparse["top1"] <= 6.0


def test_a_limit_that_only_the_dense_model_keeps_leaves_no_layer_sparse(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_accuracy_drop=0.0))
    rows, report = line.keep()
    assert report.verdict == "only dense"
    assert not line.weights
    assert all(row.state == "dense" for row in rows.layers)
    assert "only the dense model keeps the limit" in budget_table(report)
    held = line.measure(line.reported)(variant(line.job.graph, line.weights))
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
        limits_of(line.job, bare, line.measure(bare), reported=9)
    with pytest.raises(InputError, match="needs a limit to keep"):
        limits_of(replace(line.job, settings=Settings()), bare, line.measure(bare), reported=9)
    empty = replace(line.job, parts=replace(line.job.parts, choice=()))
    with pytest.raises(InputError, match="held-back calibration samples"):
        sensitivity_of(empty, line.weights, line.pruned.layers, Silent())


def test_the_users_metric_is_measured_of_dense_and_variant(tmp_path: Path) -> None:
    line = Pipeline(tmp_path, Settings(max_metric_change=0.5, metric="tests.budget.test_keep:mean_size"))
    job, judges = set_judges_apart(replace(line.job, settings=replace(line.job.settings, budget=True)))
    assert judges is not None
    assert judges.samples + len(job.parts.report) == len(line.job.parts.report)
    assert job.facts is not None
    assert job.facts.report == len(job.parts.report)
    unlabelled = [replace(sample, labels=None) for sample in line.searched]
    found = measure_of(job, unlabelled)(variant(job.graph, zeros("w3")))
    assert found.sparse["mean_size"] == 0
    assert found.dense["mean_size"] > 0
    figures = limits_of(job, unlabelled, measure_of(job, unlabelled), reported=9)(variant(job.graph, zeros("w3")))
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
    limits = limits_of(line.job, line.searched, lambda _: report, reported=len(line.reported))
    figures = limits(variant(line.job.graph, {}))
    assert [(figure.metric, figure.value, figure.limit) for figure in figures] == [
        ("top1", 0.0, 5.0),
        ("own", 2.0, 0.5),
    ]
    graph, found, sensitivity, solved = searching(line)
    choice = Search(graph, found, sensitivity, solved, limits).run()
    assert len(choice.dense) == 4


def searching(line: Pipeline) -> tuple[Any, ...]:
    sensitivity, found = sensitivity_of(line.job, line.weights, line.pruned.layers, Silent())
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


def test_every_order_ranks_by_the_figures_it_names() -> None:
    one = UnitSensitivity("a", ("a",), 0, 10, 0.5, 0.1, 2.0, 4.0)
    assert [order(one, 3.0) for order in ORDERS.values()] == [2.0, 0.1, 8.0, 0.4]
    assert RELATIVE_ERROR["relative error"](one, 3.0) == 0.1
