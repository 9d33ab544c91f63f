"""The accuracy budget: the fewest layers left dense that bring the model back within a limit, by measurement.

1. Sensitivity, on the unlabelled choice part, orders the layers: near the pruned model (what it gains where a layer is
   dense), and near the dense one (what it loses where a layer is pruned), each weighed against the layer's share of the
   expected gain and against its parameters. No order is right everywhere: later layers were solved to make good what
   earlier ones lost, so that the first layers restored may help little, or harm.
2. In each order the shortest prefix that fits is found by bisection, every step measured. Its layers are then
   tried sparse again one by one, the largest first. The order that ends with the fewest parameters dense is taken.
3. Fewer of its layers are tried with all others solved again for what they then read,
4. and so are the largest of the rest, one by one.

Steps 2 to 4 look at a fifth of the evaluation samples; on another fifth the choice has to hold, or more layers are left
dense until it does. The others are for the figures and gates of the report and nothing else: a limit that was kept by
luck here is not kept there, and the run then says so. A change has to stay one standard error below its limit, that of
its estimate here and that of its figure there together, or half of the limit where that is less: see
`LimitedFigure.margin`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prox24_export.budget.expected_drop import ExpectedDrop
from prox24_export.budget.search import (
    ERRORS,
    ORDERS,
    DenseChoice,
    Judge,
    LimitedFigure,
    Order,
    Search,
    StoredWeights,
    names_of,
)
from prox24_export.budget.sensitivity import Dense, OutputDistance, Unit, measured, remembered, units, variant
from prox24_export.data import samples as data
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Linear, Reason, Runner, Skipped
from prox24_export.progress import Progress
from prox24_export.results.budget import BudgetDecision, BudgetReport, Kept, SensitivityReport
from prox24_export.results.report import AccuracyReport, LayerReport
from prox24_export.stages.measure import Measurement
from prox24_export.stages.prepare import Job
from prox24_export.stages.prune import Pruned, prune
from prox24_export.stages.run import Run
from prox24_export.stages.solve import SolvedModel
from prox24_export.stages.weight_store import WeightStore
from prox24_export.validation.gates import OF_ACCURACY

PART = 5  # a fifth each to search and to confirm on; most are for the report, whose count of hits is the least sure
LEAST = 3  # samples: one to search on, one to confirm, one for the report
INTERVAL = 3.92  # standard errors in a 95 % interval
TOP1 = "top1"

VariantMeasure = Callable[[Runner], AccuracyReport]


@dataclass(frozen=True)
class Judges:
    """What decides.

    Attributes:
        search: Limits on the samples of the search.
        confirm: The same on those that its choices have to hold on.
        samples: How many both look at.
    """

    search: Judge
    confirm: Judge
    samples: int


@dataclass(frozen=True)
class LimitJudge:
    """What `--max-accuracy-drop` and `--max-metric-change` allow, judged on the same samples.

    Attributes:
        drop: Expected loss of top-1 of a variant; None where that has no limit.
        max_drop: Percentage points.
        measure: Every metric of a variant beside the dense model's; None where only top-1 has a limit.
        max_change: Of each metric but top-1 and top-5, in its own unit.
        scatter: By how much the error of a change on these samples grows where it foretells that on others.
    """

    drop: ExpectedDrop | None = None
    max_drop: float = 0.0
    measure: VariantMeasure | None = None
    max_change: float = 0.0
    scatter: float = 1.0

    def __call__(self, model: Runner) -> Sequence[LimitedFigure]:
        """See `Judge`."""
        figures = []
        if self.drop is not None:
            figures.append(LimitedFigure(TOP1, *self.drop.of(model), self.max_drop))
        if self.measure is not None:
            figures += changes(self.measure(model), self.max_change, self.scatter)
        return figures


def changes(accuracy: AccuracyReport, limit: float, scatter: float = 1.0) -> list[LimitedFigure]:
    """Every metric but top-1 and top-5: the change in its bad direction, in either where none is told.

    Raises:
        InputError: There is none.
    """
    errors = {change.metric: (change.high - change.low) / INTERVAL for change in accuracy.changes}
    figures = []
    for name, dense in accuracy.dense.items():
        if name in OF_ACCURACY:
            continue
        change = accuracy.sparse[name] - dense
        way = accuracy.better.get(name)
        worse = abs(change) if way is None else (-change if way == "higher" else change)
        error = errors.get(name, 0.0)
        figures.append(LimitedFigure(name, worse, error, scatter * error, limit))
    if not figures:
        raise InputError(
            "--budget with --max-metric-change needs a metric: expected a language model, 'labels' that are references "
            "or --metric module:function. Use --max-accuracy-drop for top-1."
        )
    return figures


def divided(
    samples: Sequence[data.Sample], *, seed: int, in_order: bool
) -> tuple[Sequence[data.Sample], Sequence[data.Sample], Sequence[data.Sample]]:
    """Samples to search on, samples on which its choice has to hold, and those for the report and nothing else.

    Args:
        samples: The report part.
        seed: Of the draw; order within a part follows the source.
        in_order: Cut instead of drawn: windows over one text overlap, and only neighbours do.

    Raises:
        InputError: There are fewer than three.
    """
    if len(samples) < LEAST:
        raise InputError(
            f"--budget needs at least {LEAST} evaluation samples: a fifth to search on, a fifth to confirm on, the "
            f"others to report. Got {len(samples)}. Give --evaluation."
        )
    places = np.arange(len(samples)) if in_order else np.random.default_rng(seed).permutation(len(samples))
    part = max(1, len(samples) // PART)
    searched, confirmed, reported = (
        [samples[place] for place in sorted(places)] for places in np.split(places, [part, 2 * part])
    )
    return searched, confirmed, reported


def set_judges_apart(job: Job) -> tuple[Job, Judges | None]:
    """With a budget: the job without the evaluation samples that a search may look at, and what decides it on those.

    Raises:
        InputError: There are too few, or they cannot answer it.
    """
    settings = job.settings
    if not settings.budget or not job.linears:
        return job, None
    *looked_at, reported = divided(job.parts.report, seed=settings.seed, in_order=settings.stride is not None)
    facts = None if job.facts is None else replace(job.facts, report=len(reported))
    job = replace(job, parts=replace(job.parts, report=reported), facts=facts)
    search, confirm = (limits_of(job, part, measure_of(job, part), reported=len(reported)) for part in looked_at)
    return job, Judges(search, confirm, sum(map(len, looked_at)))


def measure_of(job: Job, samples: Sequence[data.Sample]) -> VariantMeasure:
    """Every metric of a variant beside the dense model's, the user's own included; the dense model runs once."""
    model = variant(job.graph, {})
    return Measurement.prepare(
        job.graph, samples, job.settings, size=job.size, dense=lambda batches: remembered(model, batches)
    ).compare


def sensitivity_of(
    job: Job, weights: StoredWeights, layers: Sequence[LayerReport], progress: Progress
) -> tuple[SensitivityReport, list[Unit]]:
    """What `--sensitivity` prints, from the solved weights and the unlabelled choice part.

    Raises:
        InputError: The choice part is empty.
    """
    samples = job.parts.choice
    if not samples:
        raise InputError(
            "--budget and --sensitivity need held-back calibration samples: at least 5 beside those for the report. "
            "Give more with --calibration."
        )
    linears = [layer for layer in job.linears if layer.weight in weights]
    feeds = [feeds for feeds, _ in data.join_samples(samples, job.graph.inputs, job.size)]
    one, _ = next(data.join_samples(samples, job.graph.inputs, 1))
    found = units(job.graph, linears, one)
    errors = {row.name: row.relative_error or 0.0 for row in layers}
    with progress.stage("sensitivity", 2 * len(found) + 1) as tick:
        return measured(OutputDistance(job.graph, weights, feeds), found, errors, tick), found


def limits_of(job: Job, samples: Sequence[data.Sample], measure: VariantMeasure, *, reported: int) -> LimitJudge:
    """What decides, from the run's settings.

    Args:
        job: Its settings hold `max_accuracy_drop` and `max_metric_change`.
        samples: Those that the search may look at.
        measure: Metrics of a variant on them.
        reported: How many others the report will measure on.

    Raises:
        InputError: Neither limit is set, or top-1 has one and a sample has no labels.
    """
    settings, inputs = job.settings, job.graph.inputs
    if settings.max_accuracy_drop is None and settings.max_metric_change is None:
        raise InputError("--budget needs a limit to keep. Give --max-accuracy-drop or --max-metric-change.")
    drop = None
    if settings.max_accuracy_drop is not None:
        batches = [
            (feeds, labels) for feeds, labels in data.join_samples(samples, inputs, job.size) if labels is not None
        ]
        if not batches or any(sample.labels is None for sample in samples):
            raise InputError(
                "--budget with --max-accuracy-drop needs labels: expected an array 'labels' in the --evaluation file."
            )
        drop = ExpectedDrop(variant(job.graph, {}), batches, reported)
    return LimitJudge(
        drop,
        settings.max_accuracy_drop or 0.0,
        measure if settings.max_metric_change is not None else None,
        settings.max_metric_change or 0.0,
        math.sqrt(1 + len(samples) / reported),
    )


def keep_budget(
    job: Job,
    pruned: Pruned,
    weights: WeightStore,
    judges: Judges,
    *,
    again: bool,
    scratch: Path,
    run: Run,
    errors: float = ERRORS,
    orders: Mapping[str, Order] = ORDERS,
) -> tuple[Pruned, BudgetReport]:
    """Leaves layers dense until the limits are kept: `weights` afterwards holds only those that stay sparse.

    Args:
        job: The run's.
        pruned: What `solve` returned.
        weights: What it filled.
        judges: Measure a variant on the evaluation samples that the search may look at.
        again: Whether other layers may be solved again; not where they were refined together.
        scratch: Folder for weights.
        run: Takes the time.
        errors: Standard errors that a change must stay below its limit.
        orders: By which layers are left dense.

    Returns:
        The rows of the layers, and what the search found.
    """
    begun = time.perf_counter()
    with run.timed("budget"):
        sensitivity, found = sensitivity_of(job, weights, pruned.layers, run.progress)
        solver = _Again(job, scratch, run.progress)
        search = Search(
            job.graph,
            found,
            sensitivity,
            weights,
            judges.search,
            solver if again else None,
            errors,
            orders,
            confirm=judges.confirm,
        )
        choice = search.run()
        rows = solver.rows(choice) or pruned
        names = names_of(choice.dense)
        if len(choice.dense) == len(found):
            weights.clear()  # nothing that was refined beside pruned weights stays either: it is the dense model
        for name in list(weights):
            if name in names:
                del weights[name]
            elif choice.solved_again:
                weights[name] = choice.weights[name]
        report = _report(search, choice, judges.samples, errors, time.perf_counter() - begun)
    layers = _with_dense(rows.layers, pruned.layers, choice)
    sparse = {row.name for row in layers if row.state == "sparse"}
    masks = {name: mask for name, mask in rows.masks.items() if name in sparse}
    return replace(rows, layers=layers, masks=masks), report


def stay_within_budget(job: Job, solved: SolvedModel, judges: Judges | None, scratch: Path, run: Run) -> SolvedModel:
    """The solved model with the fewest layers left dense that keep the limits; as it is without a budget.

    Raises:
        InputError: No sample is held back that could tell which layers matter.
    """
    if judges is None or not solved.weights:
        return solved
    again = solved.refinement is None or not solved.refinement.kept
    pruned, found = keep_budget(job, solved.pruned, solved.weights, judges, again=again, scratch=scratch, run=run)
    return replace(solved, pruned=pruned, budget=found)


class _Again:
    """Solves all weights but those that are dense; the weights wait on disk."""

    def __init__(self, job: Job, scratch: Path, progress: Progress) -> None:
        """Solves nothing yet."""
        self._job, self._scratch, self._progress = job, scratch, progress
        self._rows: dict[Dense, Pruned] = {}

    def __call__(self, dense: Dense) -> WeightStore:
        """The weights by name."""
        folder = self._scratch / f"again-{len(self._rows)}"
        folder.mkdir()
        store = WeightStore(folder)
        self._rows[dense] = prune(
            self._job.graph,
            [_left_dense(layer) if layer.weight in dense else layer for layer in self._job.found],
            self._job.parts,
            store,
            scratch=folder,
            size=self._job.size,
            settings=self._job.settings,
            progress=self._progress,
        )
        return store

    def rows(self, choice: DenseChoice) -> Pruned | None:
        """Of the layers, as solved for a choice; None where nothing was solved again for it."""
        return None if choice.solved_for is None else self._rows[choice.solved_for]


def _left_dense(layer: Linear | Skipped) -> Skipped:
    return Skipped(layer.name, layer.op, layer.weight, layer.k, layer.n, layer.parameters, Reason.EXCLUDED)


def _with_dense(
    rows: Sequence[LayerReport], before: Sequence[LayerReport], choice: DenseChoice
) -> tuple[LayerReport, ...]:
    """Rows in which the chosen layers are dense, with the reason and the error that they had."""
    names = {linear.name: unit for unit in choice.dense for linear in unit.linears}
    many = f"{len(names)} layer{'' if len(names) == 1 else 's'}"
    reason = f"left dense to keep the accuracy budget ({many}, {choice.parameters:,} weights)"
    return tuple(
        replace(old, state="dense", reason=reason) if old.name in names else new
        for new, old in zip(rows, before, strict=True)
    )


def _report(search: Search, choice: DenseChoice, samples: int, errors: float, seconds: float) -> BudgetReport:
    names = {unit.name for unit in choice.dense}
    decisions = tuple(
        BudgetDecision(unit.name, "dense" if unit.name in names else "sparse", _why(search, unit, names))
        for unit in search.found
    )
    verdict: Kept = "kept" if choice.dense else "not needed"
    if len(choice.dense) == len(search.found) > 0:
        verdict = "only dense"
    return BudgetReport(
        samples=samples,
        errors=errors,
        sensitivity=search.sensitivity,
        curve=tuple(search.curve),
        decisions=decisions,
        dense=tuple(linear.name for unit in search.found if unit.name in names for linear in unit.linears),
        parameters=choice.parameters,
        solved_again=choice.solved_again,
        verdict=verdict,
        seconds=round(seconds, 3),
    )


def _why(search: Search, unit: Unit, dense: set[str]) -> str:
    """What was measured of one unit."""
    row = next(row for row in search.sensitivity.units if row.name == unit.name)
    loss = (
        f"loss {search.sensitivity.pruned:.3g} pruned, {row.restored:.3g} with it dense, {row.alone:.3g} with it alone"
    )
    tried = search.reasons.get(unit.name)
    place = "needed for the limit" if unit.name in dense else "not needed for the limit"
    return f"{tried or place}; {loss}"
