"""From a job to solved weights: layer by layer, then all layers together."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.differentiable import Differentiable
from prox24_export.passes.graph.on_device import exact_products
from prox24_export.passes.graph.protocol import Linear
from prox24_export.results.budget import BudgetReport
from prox24_export.results.report import RefinementReport
from prox24_export.stages.device import CPU, place_on
from prox24_export.stages.device_memory import do_in_smaller_blocks
from prox24_export.stages.journal import Journal, LayerRecords
from prox24_export.stages.prepare import Job
from prox24_export.stages.prune import PrunedLayers, draw_masks, prune
from prox24_export.stages.refine import open_differentiable, refine
from prox24_export.stages.run import Run
from prox24_export.stages.weight_store import WeightStore, pick_weights
from prox24_export.stages.work.spread import Team, gather_team

REFINEMENT_FAILED = RefinementReport(kept=False, reason="it failed")


@dataclass(frozen=True)
class SolvedModel:
    """Every layer solved.

    Attributes:
        weights: The solved weights by name, as they are stored; empty where nothing is pruned.
        pruned: The report's rows of the layers, and what calibration cost.
        refinement: What came of tuning all layers together; None where it was not wanted.
        budget: Which layers were left dense to keep a limit; None without a budget.
    """

    weights: Mapping[str, Array]
    pruned: PrunedLayers
    refinement: RefinementReport | None
    budget: BudgetReport | None = None

    def layers_of(self, job: Job) -> Sequence[Linear]:
        """The layers whose weights are solved."""
        return [layer for layer in job.linears if layer.weight in self.weights]


def solve(job: Job, scratch: Path, run: Run, journal: Journal) -> SolvedModel:
    """Solves every layer that can be pruned.

    Where layers are refined together, the held-back samples decide, so that layer by layer they only choose; where the
    result is not kept, layers are solved once more on all samples; what there is stays until that is done.

    Args:
        job: What is to be done.
        scratch: Folder for weights and for whatever else is not kept in memory.
        run: Takes the time.
        journal: Has what an interrupted run has solved, and takes what is solved here.

    Raises:
        InputError: A weight or an activation holds NaN or Inf.
        DeviceMemoryError: The GPU has too little memory; what is solved is recorded.
    """
    team = None if job.workers is None else gather_team(job.workers, job.frontend, job.graph, scratch)

    def layer_by_layer(weights: WeightStore, *, held_back: bool) -> PrunedLayers:
        return _prune_job(job, weights, team, scratch, run, journal.layers(held_back=held_back), held_back)

    function, weights = open_differentiable(job), WeightStore(scratch)
    if not isinstance(function, Differentiable):
        return SolvedModel(weights, layer_by_layer(weights, held_back=False), function)
    pruned = layer_by_layer(weights, held_back=True)
    linears = [layer for layer in job.linears if layer.weight in weights]

    tuned = WeightStore(scratch)

    def refine_together() -> RefinementReport:
        with run.timed("refine"):
            return refine(
                function,
                job,
                linears,
                weights,
                tuned=tuned,
                progress=run.progress,
                journal=journal,
                warn=run.warnings.append,
            )

    refined = run.attempt("refinement", refine_together, REFINEMENT_FAILED)
    if refined.kept:
        stores = dict.fromkeys(weights, weights) | dict.fromkeys(tuned, tuned)  # biases may be tuned, too
        return SolvedModel(pick_weights(stores), _draw_again(pruned, linears, tuned, refined), refined)
    first, second = SolvedModel(weights, pruned, refined), WeightStore(scratch)
    return run.attempt(
        "solving on all samples", lambda: SolvedModel(second, layer_by_layer(second, held_back=False), refined), first
    )


def _prune_job(  # noqa: PLR0917 - what a run has
    job: Job, weights: WeightStore, team: Team | None, scratch: Path, run: Run, records: LayerRecords, held_back: bool
) -> PrunedLayers:
    """Solves every layer by itself, on the device in smaller blocks where it has no room."""
    devices = job.devices if team is None else (CPU,)  # workers compute on their processors

    def attempt(halvings: int) -> PrunedLayers:
        return prune(
            job.graph,
            job.found,
            job.parts,
            weights,
            held_back=held_back,
            scratch=scratch,
            size=job.size,
            settings=job.settings,
            progress=run.progress,
            records=records,
            placement=place_on(job.graph, devices, halvings),
            team=team,
        )

    exact = nullcontext() if devices[0].type == "cpu" else exact_products()
    with run.timed("prune"), exact:
        pruned = do_in_smaller_blocks(attempt, devices, run.warnings.append)
    run.on_host[:] = [*(work for work in run.on_host if work.work != "calibration"), *pruned.on_host]
    return pruned


def _draw_again(
    pruned: PrunedLayers, linears: Sequence[Linear], tuned: Mapping[str, Array], refined: RefinementReport
) -> PrunedLayers:
    """Draws the masks again where they have moved; those of stored integers stay."""
    if not refined.masks_moved:
        return pruned
    return replace(pruned, masks={**pruned.masks, **draw_masks(linears, tuned)})
