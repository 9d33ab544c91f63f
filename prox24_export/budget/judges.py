"""What decides whether a variant of the model keeps the limits, and the evaluation samples it decides on.

The search looks at a fifth of the evaluation samples; on another fifth its choice has to hold. The others are for the
figures and gates of the report and for nothing else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prox24_export.budget.expected_drop import ExpectedDrop
from prox24_export.budget.search import Judge, LimitedFigure
from prox24_export.budget.sensitivity import make_variant, remember_outputs
from prox24_export.data.batches import JoinedBatches
from prox24_export.data.sample_list import Sample, select_samples
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Runner
from prox24_export.results.report import AccuracyReport
from prox24_export.stages.dense_outputs import SampleSource
from prox24_export.stages.measure import Measurement
from prox24_export.stages.prepare import Job
from prox24_export.validation.gates import OF_ACCURACY

PART = 5  # a fifth each to search and to confirm on; most are for the report, whose count of hits scatters most
LEAST = 3  # the fewest samples: one to search on, one to confirm on, one for the report
INTERVAL = 3.92  # the width of a 95 % interval in standard errors
TOP1 = "top1"

VariantMeasure = Callable[[Runner], AccuracyReport]


@dataclass(frozen=True)
class Judges:
    """The two judges of a search.

    Attributes:
        search: Judges every variant, on the samples of the search.
        confirm: Judges the choices of the search, on other samples.
        samples: The number of samples that both look at.
    """

    search: Judge
    confirm: Judge
    samples: int


@dataclass(frozen=True)
class LimitJudge:
    """Judges a variant by `--max-accuracy-drop` and `--max-metric-change`, on the same samples.

    Attributes:
        drop: Estimates the loss of top-1 of a variant; None where top-1 has no limit.
        max_drop: The most percentage points of top-1 that may be lost.
        measure: Gives every metric of a variant beside the dense model's; None where only top-1 has a limit.
        max_change: The most that each metric but top-1 and top-5 may change for the worse, in its own unit.
        scatter: The factor on the standard error of a change on these samples that makes it the error of what will be
            measured on others.
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
            figures.append(LimitedFigure(TOP1, *self.drop.estimate(model), self.max_drop))
        if self.measure is not None:
            figures += list_changes(self.measure(model), self.max_change, self.scatter)
        return figures


def list_changes(accuracy: AccuracyReport, limit: float, scatter: float = 1.0) -> list[LimitedFigure]:
    """Lists the change of every metric but top-1 and top-5 in its bad direction, or in either where none is known.

    Args:
        accuracy: The metrics of the dense model and of a variant.
        limit: The largest change allowed, in the unit of each metric.
        scatter: As in `LimitJudge`.

    Raises:
        InputError: There is no such metric.
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
        worse = math.inf if math.isnan(worse) else worse  # a figure that is no number keeps no limit
        figures.append(LimitedFigure(name, worse, error, scatter * error, limit))
    if not figures:
        raise InputError(
            "--budget with --max-metric-change needs a metric: expected a language model, 'labels' that are references "
            "or --metric module:function. Use --max-accuracy-drop for top-1."
        )
    return figures


def divide_samples(
    samples: Sequence[Sample], *, seed: int, in_order: bool
) -> tuple[Sequence[Sample], Sequence[Sample], Sequence[Sample]]:
    """Divides samples into those to search on, those to confirm the choice on, and those for the report alone.

    Args:
        samples: The report part.
        seed: Seed of the random draw; within a part, samples keep their order.
        in_order: Whether the parts are cut out in order instead of being drawn: windows over one text overlap with
            their neighbours, which should be in the same part.

    Raises:
        InputError: There are fewer than three samples.
    """
    if len(samples) < LEAST:
        raise InputError(
            f"--budget needs at least {LEAST} evaluation samples: a fifth to search on, a fifth to confirm on, the "
            f"others to report. Got {len(samples)}. Give --evaluation."
        )
    places = np.arange(len(samples)) if in_order else np.random.default_rng(seed).permutation(len(samples))
    part = max(1, len(samples) // PART)
    searched, confirmed, reported = (
        select_samples(samples, np.sort(places)) for places in np.split(places, [part, 2 * part])
    )
    return searched, confirmed, reported


def expect_held_back(job: Job) -> None:
    """Expects held-back calibration samples, which tell how much each layer matters.

    Raises:
        InputError: There are none.
    """
    if not job.parts.choice:
        raise InputError(
            "--budget and --sensitivity need held-back calibration samples: at least 5 beside those for the report. "
            "Give more with --calibration."
        )


def prepare_judges(job: Job) -> tuple[Job, Judges | None]:
    """Sets evaluation samples apart for the search of a budget, and prepares the judges that look at them.

    Returns:
        The job without those samples, and the judges; without a budget the job as it is, and None.

    Raises:
        InputError: There are too few samples, or they cannot tell whether the limits are kept.
    """
    settings = job.settings
    if not settings.budget or not job.linears:
        return job, None
    expect_held_back(job)
    *looked_at, reported = divide_samples(job.parts.report, seed=settings.seed, in_order=settings.stride is not None)
    facts = None if job.facts is None else replace(job.facts, report=len(reported))
    job = replace(job, parts=replace(job.parts, report=reported), facts=facts)
    search, confirm = (
        make_limit_judge(job, part, prepare_measure(job, part), reported=len(reported)) for part in looked_at
    )
    return job, Judges(search, confirm, sum(map(len, looked_at)))


def prepare_measure(job: Job, samples: Sequence[Sample]) -> VariantMeasure:
    """Prepares a function that gives every metric of a variant beside the dense model's, the user's own included.

    The dense model runs once, as far as its outputs can be kept.

    Raises:
        InputError: An output of the dense model holds NaN, or the user's own metric fails.
    """
    model = make_variant(job.graph, {})
    return Measurement.prepare(
        job.graph,
        samples,
        job.settings,
        size=job.size,
        told=SampleSource.of_report(samples, job.facts),
        dense=lambda batches: remember_outputs(model, batches),
    ).compare


def make_limit_judge(job: Job, samples: Sequence[Sample], measure: VariantMeasure, *, reported: int) -> LimitJudge:
    """Makes the judge that holds a variant against the limits in the run's settings.

    Args:
        job: Its settings hold `max_accuracy_drop` and `max_metric_change`.
        samples: The samples that the judge looks at.
        measure: Gives the metrics of a variant on these samples.
        reported: The number of other samples that the report will measure on.

    Raises:
        InputError: Neither limit is set, or top-1 has one and a sample has no labels.
    """
    settings, inputs = job.settings, job.graph.inputs
    if settings.max_accuracy_drop is None and settings.max_metric_change is None:
        raise InputError("--budget needs a limit to keep. Give --max-accuracy-drop or --max-metric-change.")
    drop = None
    if settings.max_accuracy_drop is not None:
        joined = JoinedBatches(samples, inputs, job.size)
        batches = [(feeds, labels) for feeds, labels in joined if labels is not None]
        if not batches or any(sample.labels is None for sample in samples):
            raise InputError(
                "--budget with --max-accuracy-drop needs labels: expected an array 'labels' in the --evaluation file."
            )
        drop = ExpectedDrop(make_variant(job.graph, {}), batches, reported)
    return LimitJudge(
        drop,
        settings.max_accuracy_drop or 0.0,
        measure if settings.max_metric_change is not None else None,
        settings.max_metric_change or 0.0,
        math.sqrt(1 + len(samples) / reported),
    )
