"""What the dense model returns on the samples of a run, looked at before any work.

Nothing can be compared with NaN, and no sum of differences says anything of outputs that have another size for every
sample.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prox24_export.data.batches import join_samples
from prox24_export.data.checked_arrays import can_join
from prox24_export.data.sample_list import Sample, count_entries, list_places
from prox24_export.data.samples import Parts
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.on_device import TensorRunner
from prox24_export.passes.graph.protocol import Feeds, Linear, Runner, TracedGraph
from prox24_export.results.report import DataFacts
from prox24_export.stages.prune import expect_finite_weights
from prox24_export.validation.arrays import holds_nan, is_float, read_output

PROBED = 16  # samples on which the size of outputs is looked at, one by one


@dataclass(frozen=True)
class SampleSource:
    """How an error message names samples.

    Attributes:
        numbers: The place of each sample in its source, in the order in which the samples are run.
        source: Where they come from; empty for samples that were drawn at random.
    """

    numbers: Sequence[int]
    source: str

    @classmethod
    def of_calibration(cls, samples: Sequence[Sample], facts: DataFacts | None) -> "SampleSource":
        """How to name samples that layers are solved with."""
        is_random = facts is not None and facts.is_random
        return cls(list_places(samples), "" if is_random or facts is None else facts.calibration)

    @classmethod
    def of_report(cls, samples: Sequence[Sample], facts: DataFacts | None) -> "SampleSource":
        """How to name samples of the report part, which may be a fifth of those for the calibration."""
        if facts is None or facts.evaluation != f"a fifth of {facts.calibration}":
            return cls(list_places(samples), "" if facts is None else facts.evaluation)
        return cls.of_calibration(samples, facts)


def expect_numbers(
    run: Runner,
    names: Sequence[str],
    batches: Iterable[tuple[Feeds, Array | None]],
    told: SampleSource,
    *,
    joined: bool,
) -> None:
    """Refuses a dense model that returns NaN.

    Args:
        run: The dense model.
        names: Names of its outputs.
        batches: What it is run on.
        told: How to name the samples in the batches.
        joined: Whether the rows of a batch are samples; else each batch is one.

    Raises:
        InputError: An output holds NaN.
    """
    start = 0
    for feeds, _ in batches:
        is_known = isinstance(run, TensorRunner) and not run.holds_nan(feeds)  # without bringing outputs to the host
        for name, output in () if is_known else zip(names, map(read_output, run(feeds)), strict=True):
            if holds_nan(output):
                raise InputError(_describe_nan(name, start + (_find_first_nan(output) if joined else 0), told))
        start += max((len(array) for array in feeds.values() if np.ndim(array)), default=1) if joined else 1


def check_calibration(
    graph: TracedGraph,
    linears: Sequence[Linear],
    parts: Parts,
    facts: DataFacts | None,
    *,
    size: int,
) -> None:
    """Refuses a dense model that returns NaN on the first or on the largest batch of the calibration samples.

    That no activation holds NaN is checked where layers are calibrated, on all samples.

    Args:
        graph: The dense model.
        linears: Its layers that can be pruned.
        parts: The samples.
        facts: Where they come from.
        size: The number of samples in one call.

    Raises:
        InputError: An output holds NaN. Where a weight does, the message says that.
    """
    places = [(part, index) for part in (parts.fit, parts.choice) for index in range(len(part))]
    if not places:
        return
    numbers = [*list_places(parts.fit), *list_places(parts.choice)]
    order = sorted(range(len(places)), key=numbers.__getitem__)
    largest = max(order, key=lambda index: count_entries(*places[index]))
    run = graph.runner()
    try:
        for chosen in (order[:size], [largest]):
            few = [part[index] for part, index in (places[one] for one in chosen)]
            told = SampleSource.of_calibration(few, facts)
            batches = join_samples(few, graph.inputs, size)
            expect_numbers(run, graph.outputs, batches, told, joined=can_join(graph.inputs))
    except InputError:
        expect_finite_weights(graph, linears)
        raise


def expect_fixed_size(graph: TracedGraph, samples: Sequence[Sample]) -> None:
    """Refuses a limit of the signal-to-noise ratio where every float output has a size that depends on the data.

    It does, for certain, where it differs between samples whose inputs have the same sizes. The first samples are
    looked at, one by one.

    Raises:
        InputError: There is no float output of another kind.
    """
    run = graph.runner()
    sizes: dict[str, dict[Any, set[tuple[int, ...]]]] = {}
    for feeds, _ in join_samples(samples[:PROBED], graph.inputs, 1):
        fed = tuple(np.shape(array) for array in feeds.values())
        for name, output in zip(graph.outputs, map(read_output, run(feeds)), strict=True):
            if is_float(output):
                sizes.setdefault(name, {}).setdefault(fed, set()).add(output.shape)
    varying = [name for name, found in sizes.items() if any(len(shapes) > 1 for shapes in found.values())]
    if varying and len(varying) == len(sizes):
        raise InputError(
            f"--min-snr needs a float output of a fixed size, and that of {', '.join(varying)} depends on the data: no "
            "entry of one model belongs to an entry of the other. Leave the gate out, cut the model before the "
            "selection, or use --metric."
        )


def _find_first_nan(output: Any) -> int:
    """Finds the place along the first axis; 0 where the samples of an output do not lie along one."""
    return int(np.argwhere(np.isnan(output))[0][0]) if is_float(output) and output.ndim else 0


def _describe_nan(name: str, place: int, told: SampleSource) -> str:
    where = f"first in sample {told.numbers[min(place, len(told.numbers) - 1)]}"
    if told.source:
        return (
            f"the dense model's output {name} holds NaN on these samples, {where} of {told.source}. Expected numbers, "
            "since nothing can be compared with NaN. Repair the model, or leave out the samples on which it has no "
            "result."
        )
    return (
        f"the dense model's output {name} holds NaN on random inputs, {where}. Expected numbers, since nothing can be "
        "compared with NaN. Give --calibration: random inputs may be none that the model is made for."
    )
