"""What variants of a model are measured on, and what the dense one gives there: set up once, compared often."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from prox24_export.data.batches import JoinedBatches
from prox24_export.data.checked_arrays import can_join
from prox24_export.data.sample_list import Sample
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Runner, TracedGraph
from prox24_export.results.report import AccuracyReport
from prox24_export.settings import Settings
from prox24_export.stages.dense_outputs import SampleSource, expect_fixed_size, expect_numbers
from prox24_export.stages.device import make_runner
from prox24_export.stages.prepare import Job
from prox24_export.stages.run import Run
from prox24_export.validation import accuracy, custom_metric
from prox24_export.validation.custom_metric import Measured
from prox24_export.validation.perplexity import find_token_input


@dataclass(frozen=True)
class Measurement:
    """The dense model on samples that nothing else is done with.

    Attributes:
        dense: Runs the dense model: feeds to outputs, in the order of `outputs`.
        outputs: Names of the model's outputs.
        batches: Feeds and labels, joined; empty where there is no sample.
        samples: How many samples they hold.
        next_token: Name of the input that a causal language model predicts the continuation of; None for others.
        stride: Tokens by which windows over one text advance; None where rows do not overlap.
        metric: `module:function` of the user's own metric; None where there is none.
        dense_metric: What that says of the dense model.
    """

    dense: Runner
    outputs: tuple[str, ...]
    batches: Sequence[tuple[Feeds, Array | None]]
    samples: int
    next_token: str | None = None
    stride: int | None = None
    metric: str | None = None
    dense_metric: Measured | None = None

    @classmethod
    def prepare(
        cls,
        graph: TracedGraph,
        samples: Sequence[Sample],
        settings: Settings,
        *,
        size: int,
        told: SampleSource,
        dense: Callable[[Sequence[Feeds]], Runner] | None = None,
    ) -> "Measurement":
        """Joins the samples, looks at the dense model's outputs and asks the user's own metric about that model.

        All this is done here so that it fails before any work.

        Args:
            graph: The dense model.
            samples: What is measured on.
            settings: `metric` and `stride` count.
            size: Samples in one call.
            told: How to name the samples in messages.
            dense: Makes what runs the dense model, given the batches that it will run; None: `graph.runner`.

        Raises:
            InputError: An output of the dense model holds NaN, or the user's own metric fails.
        """
        batches = JoinedBatches(samples, graph.inputs, size)
        run = graph.runner() if dense is None else dense([feeds for feeds, _ in batches])
        expect_numbers(run, graph.outputs, batches, told, joined=can_join(graph.inputs))
        spec, own = settings.metric, None
        if spec is not None:
            own = custom_metric.measure_samples(spec, run, graph.outputs, batches)
        token = find_token_input(graph)
        return cls(run, graph.outputs, batches, len(samples), token, settings.stride, spec, own)

    def compare(self, variant: Runner, tick: Callable[[], None] = lambda: None) -> AccuracyReport:
        """Measures every metric of a variant beside the dense model's; calls `tick` once for each batch.

        Raises:
            InputError: The user's own metric fails.
        """
        measured = accuracy.compare_models(
            self.dense,
            variant,
            self.outputs,
            self.batches,
            samples=self.samples,
            next_token=self.next_token,
            stride=self.stride,
            tick=tick,
        )
        if self.metric is None or self.dense_metric is None:
            return measured
        own = custom_metric.measure_samples(self.metric, variant, self.outputs, self.batches, is_sparse=True)
        return custom_metric.add_metrics(measured, self.dense_metric, own)


def prepare_measurement(job: Job, run: Run) -> Measurement:
    """Prepares what the finished model is measured on: the report part, which nothing else looks at.

    Raises:
        InputError: No output has a signal-to-noise ratio, and one is asked for; or an output of the dense model holds
            NaN; or the user's own metric fails.
    """
    with run.timed("data"):
        if job.settings.min_snr is not None and job.linears:
            expect_fixed_size(job.graph, job.parts.report)
        told = SampleSource.of_report(job.parts.report, job.facts)
        return Measurement.prepare(
            job.graph,
            job.parts.report,
            job.settings,
            size=job.size,
            told=told,
            dense=lambda batches: make_runner(job.graph, job.device, next(iter(batches), None), run.on_host.append),
        )


def measure_accuracy(
    measurement: Measurement, sparse: TracedGraph, device: torch.device, run: Run
) -> AccuracyReport | None:
    """Measures the finished model beside the dense one; None where there is no sample.

    Args:
        measurement: The dense model, and what to measure on.
        sparse: The finished model.
        device: Where it runs, where it can.
        run: Takes the time, and what is left to the host.

    Raises:
        InputError: The user's own metric fails.
    """
    if not measurement.batches:
        return None
    with run.timed("accuracy"), run.progress.stage("accuracy", len(measurement.batches)) as tick:
        variant = make_runner(sparse, device, measurement.batches[0][0], run.on_host.append)
        return measurement.compare(variant, tick)
