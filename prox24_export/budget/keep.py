"""The accuracy budget: leaves the fewest layers dense that bring the model back within a limit, by measurement.

1. Sensitivity, on the unlabelled choice part, orders the layers: near the pruned model (what it gains where a layer is
   dense), and near the dense one (what it loses where a layer is pruned), each weighed against the layer's share of the
   expected gain and against its parameters. No order is right everywhere: later layers were solved to make good what
   earlier ones lost, so that the first layers restored may help little, or harm.
2. In each order the shortest prefix that fits is found by bisection, every step measured. Its layers are then
   tried sparse again one by one, the largest first. The order that ends with the fewest parameters dense is taken.
3. Fewer of that order's layers are tried with all other layers solved again for what they then read.
4. The largest of the layers that are still dense are tried sparse in the same way, one by one.

Steps 2 to 4 look at a fifth of the evaluation samples. On another fifth the choice has to hold; where it does not, more
layers are left dense until it does. The other samples are for the figures and gates of the report and for nothing else:
a limit that was kept by luck here is not kept there, and the run then says so. A change has to stay one standard error
below its limit, or half of the limit where that is less. The error is that of the estimate here and of the figure in
the report together; see `LimitedFigure.margin`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prox24_export.budget.judges import Judges, expect_held_back
from prox24_export.budget.search import ERRORS, ORDERS, DenseChoice, Order, Search, StoredWeights, list_weights
from prox24_export.budget.sensitivity import DenseNames, OutputDistance, Unit, find_units, measure_sensitivity
from prox24_export.data.batches import join_samples, list_feeds
from prox24_export.passes.graph.protocol import Linear, Reason, Skipped
from prox24_export.progress import Progress
from prox24_export.results.budget import BudgetDecision, BudgetReport, Kept, SensitivityReport
from prox24_export.results.report import LayerReport
from prox24_export.stages.prepare import Job
from prox24_export.stages.prune import PrunedLayers, prune
from prox24_export.stages.run import Run
from prox24_export.stages.solve import SolvedModel
from prox24_export.stages.weight_store import WeightStore, pick_weights


def measure_job_sensitivity(
    job: Job, weights: StoredWeights, layers: Sequence[LayerReport], progress: Progress
) -> tuple[SensitivityReport, list[Unit]]:
    """Measures what `--sensitivity` prints, from the solved weights and the unlabelled choice part.

    Returns:
        The sensitivity of every unit, and the units, in network order.

    Raises:
        InputError: The choice part is empty.
    """
    expect_held_back(job)
    samples = job.parts.choice
    linears = [layer for layer in job.linears if layer.weight in weights]
    feeds = list_feeds(samples, job.graph.inputs, job.size)
    one, _ = next(join_samples(samples, job.graph.inputs, 1))
    found = find_units(job.graph, linears, one)
    errors = {row.name: row.relative_error or 0.0 for row in layers}
    with progress.stage("sensitivity", 2 * len(found) + 1) as tick:
        return measure_sensitivity(OutputDistance(job.graph, weights, feeds), found, errors, tick), found


def keep_budget(
    job: Job,
    pruned: PrunedLayers,
    weights: StoredWeights,
    judges: Judges,
    *,
    again: bool,
    scratch: Path,
    run: Run,
    errors: float = ERRORS,
    orders: Mapping[str, Order] = ORDERS,
) -> tuple[PrunedLayers, StoredWeights, BudgetReport]:
    """Leaves layers dense until the limits are kept.

    Args:
        job: The run's job.
        pruned: The layers as they were solved.
        weights: The solved weights.
        judges: Measure a variant on the evaluation samples that the search may look at.
        again: Whether other layers may be solved again, which must not be where they were refined together.
        scratch: Folder for weights that are solved again.
        run: Takes the time and shows progress.
        errors: The number of standard errors by which a change must stay below its limit.
        orders: The orders in which layers are left dense.

    Returns:
        The layers as they end, the weights that stay sparse, and what the search found.
    """
    begun = time.perf_counter()
    with run.timed("budget"):
        sensitivity, found = measure_job_sensitivity(job, weights, pruned.layers, run.progress)
        solver = _OtherLayersSolver(job, scratch, run.progress)
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
        rows = solver.find_rows(choice) or pruned
        names = list_weights(choice.dense)
        source = choice.weights if choice.solved_again else weights
        # Nothing that was refined beside pruned weights stays either where all are dense: it is the dense model.
        sparse_names = [] if len(choice.dense) == len(found) else [name for name in weights if name not in names]
        kept = pick_weights(dict.fromkeys(sparse_names, source))
        report = _make_report(search, choice, judges.samples, errors, time.perf_counter() - begun)
    layers = _mark_dense(rows.layers, pruned.layers, choice)
    sparse = {row.name for row in layers if row.state == "sparse"}
    masks = {name: mask for name, mask in rows.masks.items() if name in sparse}
    return replace(rows, layers=layers, masks=masks), kept, report


def stay_within_budget(job: Job, solved: SolvedModel, judges: Judges | None, scratch: Path, run: Run) -> SolvedModel:
    """Leaves the fewest layers of a solved model dense that keep the limits; without a budget it stays as it is.

    Raises:
        InputError: No calibration sample is held back that could tell which layers matter.
    """
    if judges is None or not solved.weights:
        return solved
    again = solved.refinement is None or not solved.refinement.kept
    pruned, kept, found = keep_budget(job, solved.pruned, solved.weights, judges, again=again, scratch=scratch, run=run)
    return replace(solved, weights=kept, pruned=pruned, budget=found)


class _OtherLayersSolver:
    """Solves all layers again but those that are left dense; the weights are kept on disk."""

    def __init__(self, job: Job, scratch: Path, progress: Progress) -> None:
        """Keeps what solving needs; nothing is solved yet."""
        self._job, self._scratch, self._progress = job, scratch, progress
        self._rows: dict[DenseNames, PrunedLayers] = {}

    def __call__(self, dense: DenseNames) -> WeightStore:
        """Solves the other layers and returns their weights by name."""
        folder = self._scratch / f"again-{len(self._rows)}"
        folder.mkdir()
        store = WeightStore(folder)
        self._rows[dense] = prune(
            self._job.graph,
            [_leave_dense(layer) if layer.weight in dense else layer for layer in self._job.found],
            self._job.parts,
            store,
            scratch=folder,
            size=self._job.size,
            settings=self._job.settings,
            progress=self._progress,
        )
        return store

    def find_rows(self, choice: DenseChoice) -> PrunedLayers | None:
        """The layers as they were solved for a choice; None where nothing was solved again for it."""
        return None if choice.solved_for is None else self._rows[choice.solved_for]


def _leave_dense(layer: Linear | Skipped) -> Skipped:
    return Skipped(layer.name, layer.op, layer.weight, layer.k, layer.n, layer.parameters, Reason.EXCLUDED)


def _mark_dense(
    rows: Sequence[LayerReport], before: Sequence[LayerReport], choice: DenseChoice
) -> tuple[LayerReport, ...]:
    """Marks the chosen layers as dense, with the reason; their rows keep the error that they had when sparse."""
    names = {linear.name: unit for unit in choice.dense for linear in unit.linears}
    many = f"{len(names)} layer{'' if len(names) == 1 else 's'}"
    reason = f"left dense to keep the accuracy budget ({many}, {choice.parameters:,} weights)"
    return tuple(
        replace(old, state="dense", reason=reason) if old.name in names else new
        for new, old in zip(rows, before, strict=True)
    )


def _make_report(search: Search, choice: DenseChoice, samples: int, errors: float, seconds: float) -> BudgetReport:
    names = {unit.name for unit in choice.dense}
    decisions = tuple(
        BudgetDecision(unit.name, "dense" if unit.name in names else "sparse", _explain(search, unit, names))
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


def _explain(search: Search, unit: Unit, dense: set[str]) -> str:
    """Says in one line how a unit ends and what was measured of it."""
    row = next(row for row in search.sensitivity.units if row.name == unit.name)
    loss = (
        f"loss {search.sensitivity.pruned:.3g} pruned, {row.restored:.3g} with it dense, {row.alone:.3g} with it alone"
    )
    tried = search.reasons.get(unit.name)
    place = "needed for the limit" if unit.name in dense else "not needed for the limit"
    return f"{tried or place}; {loss}"
