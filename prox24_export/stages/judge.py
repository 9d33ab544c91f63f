"""The limits that the user set, and an earlier run: which of them the run has kept."""

from collections.abc import Sequence

from prox24_export.results.engine import EngineReport
from prox24_export.results.report import AccuracyReport, Gate, LayerReport
from prox24_export.stages.prepare import Job
from prox24_export.stages.run import Run
from prox24_export.validation import baseline, gates


def judge(
    job: Job,
    measured: AccuracyReport | None,
    engine: EngineReport,
    layers: Sequence[LayerReport],
    run: Run,
    *,
    is_copy: bool,
) -> tuple[Gate, ...]:
    """Judges every gate of the settings, and those against an earlier run.

    Args:
        job: What was run.
        measured: Accuracy of both models; None where nothing was measured.
        engine: Latency of both models.
        layers: The report's rows.
        run: Takes the time, and warnings about the earlier run.
        is_copy: Whether nothing was pruned, so that the model is a copy of the dense one.
    """
    with run.timed("gates"):
        found = gates.evaluate_gates(job.settings, measured, engine=engine, layers=layers, is_copy=is_copy)
        if job.baseline is None:
            return found
        compared = baseline.compare_with_baseline(
            job.baseline, measured, engine=engine, layers=layers, strict=job.settings.strict
        )
        run.warnings.extend(compared.warnings)
        return found + compared.gates
