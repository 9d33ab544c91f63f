"""From a job to solved weights: layer by layer, then all layers together."""

from pathlib import Path

from prox24_export.passes.graph.protocol import Differentiable
from prox24_export.progress import Progress
from prox24_export.results.report import RefinementReport
from prox24_export.stages.prepare import Job
from prox24_export.stages.prune import Pruned, prune
from prox24_export.stages.refine import opened, refine
from prox24_export.stages.run import Run
from prox24_export.stages.weight_store import WeightStore


def solve(
    job: Job, weights: WeightStore, scratch: Path, run: Run, progress: Progress
) -> tuple[Pruned, RefinementReport | None]:
    """Fills `weights`, and tells how.

    Where layers are refined together, the held-back samples decide, so that layer by layer they only choose; where the
    result is not kept, layers are solved once more on all samples.

    Raises:
        InputError: A weight or an activation holds NaN or Inf.
    """

    def layerwise(*, held_back: bool) -> Pruned:
        weights.clear()
        settings, size = job.settings, job.size
        with run.timed("prune"):
            return prune(
                job.graph,
                job.found,
                job.parts,
                weights,
                held_back=held_back,
                scratch=scratch,
                size=size,
                settings=settings,
                progress=progress,
            )

    function = opened(job)
    if not isinstance(function, Differentiable):
        return layerwise(held_back=False), function
    pruned = layerwise(held_back=True)
    linears = [layer for layer in job.linears if layer.weight in weights]
    with run.timed("refine"):
        refined = refine(function, job.graph, linears, weights, job.parts, settings=job.settings, progress=progress)
    del function
    return (pruned if refined.kept else layerwise(held_back=False)), refined
