"""The samples of a run: in their parts, as many in a call as the model takes, and enough to answer the gates."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from prox24_export.data import text
from prox24_export.data.batches import choose_batch_size, join_samples, list_feeds
from prox24_export.data.random_samples import RANDOM_SAMPLES, draw_random
from prox24_export.data.sample_list import Sample, read_array
from prox24_export.data.samples import Parts, Source, Tokenize, read_samples, split_samples
from prox24_export.data.sources import StartedFunction
from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.results.report import DataFacts
from prox24_export.settings import Settings
from prox24_export.stages.picture_options import expect_used, make_picture_reader
from prox24_export.validation import accuracy, gates
from prox24_export.validation.arrays import is_float, read_output
from prox24_export.validation.perplexity import find_token_input

OUTPUT_VALUES = 1 << 25  # entries of one output in one batch
MOST_SHOWN = 8  # inputs whose shapes a message names


def collect_samples(
    graph: TracedGraph,
    calibration: Source | None,
    evaluation: Source | None,
    settings: Settings,
    *,
    needed: bool,
) -> tuple[Parts, DataFacts | None]:
    """Collects the samples of a run in three parts that never mix.

    Args:
        graph: Knows the inputs.
        calibration: Source of fit and choice part; None draws random samples.
        evaluation: Source of the report part; None sets a fifth of the others aside.
        settings: Seed, number and shapes of samples.
        needed: Whether anything is eligible. Where nothing is, nothing is drawn at random.

    Returns:
        The parts, and where they come from.
    """
    _expect_fitting(calibration, evaluation, settings)
    pictures = make_picture_reader(graph.path, settings)
    if not needed and calibration is None and evaluation is None:
        return Parts((), (), ()), None
    if calibration is None and not needed:
        samples: Sequence[Sample] = []
    elif calibration is None:
        count = settings.samples or RANDOM_SAMPLES
        samples = draw_random(graph.inputs, graph.gathered_rows, settings.random_shapes, count, settings.seed)
    else:
        tokenize, limit = _make_tokenize(graph, settings, None), settings.samples
        samples = read_samples(calibration, graph.inputs, "--calibration", tokenize, limit, pictures=pictures)
    _expect_rows(graph, samples, "--calibration")
    parts = split_samples(samples, with_report=evaluation is None, seed=settings.seed, limit=settings.samples)
    report: Sequence[Sample] = ()
    if evaluation is not None:
        tokenize = _make_tokenize(graph, settings, settings.stride)
        report = read_samples(evaluation, graph.inputs, "--evaluation", tokenize, pictures=pictures)
        _expect_rows(graph, report, "--evaluation")
        parts = Parts(parts.fit, parts.choice, report)
    expect_used(settings, pictures, calibration, evaluation)
    source = ("random" if needed else "none") if calibration is None else _describe_source(calibration)
    facts = DataFacts(
        calibration=source,
        evaluation=f"a fifth of {source}" if evaluation is None else _describe_source(evaluation),
        fit=len(parts.fit),
        choice=len(parts.choice),
        report=len(parts.report),
        is_random=calibration is None and needed,
    )
    return parts, facts


def _make_tokenize(graph: TracedGraph, settings: Settings, stride: int | None) -> Tokenize:
    """Makes what turns texts into rows of token ids for a model, with windows that advance by `stride`."""
    place = text.find_tokenizer(graph.path) if settings.tokenizer is None else Path(settings.tokenizer)

    def tokenize(words: Path | str, name: str) -> Array:
        if isinstance(words, str):
            return text.cut_token_rows(words, place, settings.sequence, stride, name)
        return text.read_token_rows(words, place, settings.sequence, stride, name)

    return tokenize


def _expect_fitting(calibration: Source | None, evaluation: Source | None, settings: Settings) -> None:
    """Refuses options that these sources leave without a meaning."""
    if settings.shapes and calibration is not None and settings.engine == "none":
        raise InputError(
            "--shapes sizes random inputs and engines; --calibration gives real inputs, and --engine none builds no "
            "engine. Leave --shapes out."
        )
    if settings.stride is not None and Path(str(evaluation)).suffix.lower() not in text.ENDINGS:
        raise InputError("--stride is for windows over one text. Give --evaluation a .txt file, or leave it out.")


def _expect_rows(graph: TracedGraph, samples: Sequence[Sample], option: str) -> None:
    """Refuses samples with an index that the table it is looked up in does not have."""
    for name, rows in graph.gathered_rows.items():
        for index in range(len(samples)):
            ids = read_array(samples, index, name)
            if ids.size and (int(ids.max()) >= rows or int(ids.min()) < -rows):
                raise InputError(
                    f"{option}: {name!r} of sample {index} has values from {ids.min()} to {ids.max()}. Expected less "
                    f"than the {rows} rows of the table that they index."
                )


def _describe_source(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path, StartedFunction)) else "feed dictionaries"


def find_batch_size(graph: TracedGraph, parts: Parts, *, is_random: bool = False) -> int:
    """Finds how many samples to join in one call; one where the model cannot run two, whatever it declares.

    Args:
        graph: The model.
        parts: The samples.
        is_random: Whether they were drawn at random: then `--shapes` decides their sizes, and they may be none that the
            model is made for.

    Raises:
        InputError: The model cannot be run on the largest sample.
    """
    every = [part for part in (parts.fit, parts.choice, parts.report) if part]
    if not every:
        return 1
    run = graph.runner()
    size = min(choose_batch_size(part) for part in every)
    if size > 1 and graph.predicts_next_token:  # its output is as many times its input as there are tokens to choose
        try:
            size = max(1, min(size, OUTPUT_VALUES // _largest_output(run(every[0][0].feeds))))
        except Exception as error:
            raise InputError(_tell_failure(graph, every[0][0].feeds, "first", error, is_random=is_random)) from error
    for attempt in dict.fromkeys((min(size, 2), 1)):  # a model that runs two samples at once runs more
        groups = (feeds for part in every for feeds in list_feeds(part, graph.inputs, attempt))
        largest = max(groups, key=lambda group: group.entries)
        feeds = dict(largest)
        try:
            run(feeds)
        except Exception as error:
            if attempt == 1:
                raise InputError(_tell_failure(graph, feeds, "largest", error, is_random=is_random)) from error
        else:
            return size if attempt > 1 else 1
    return 1


def _tell_failure(graph: TracedGraph, feeds: Feeds, which: str, error: Exception, *, is_random: bool) -> str:
    told = f"{graph.path} cannot be run on the {which} sample, {describe_shapes(feeds)}"
    way = " It was drawn at random: give --calibration, or sizes that fit together with --shapes name:1x3x224x224."
    return f"{told}: {runtime.shorten_message(error)}.{way if is_random else ''}"


def describe_shapes(feeds: Feeds) -> str:
    """Writes the shapes of the first inputs for messages, e.g. `x: [1, 3], mask: [1, 4]`."""
    shown = [f"{name}: {list(array.shape)}" for name, array in itertools.islice(feeds.items(), MOST_SHOWN)]
    more = [f"and {len(feeds) - MOST_SHOWN} more"] if len(feeds) > MOST_SHOWN else []
    return ", ".join(shown + more)


def _largest_output(outputs: Sequence[Array]) -> int:
    return max((output.size for output in outputs), default=1)


def check_gates(graph: TracedGraph, parts: Parts, settings: Settings, size: int) -> None:
    """Refuses gates that the report part cannot answer, before any work is done."""
    labelled = [sample for sample in parts.report if sample.labels is not None]
    if settings.max_accuracy_drop is not None and (not labelled or len(labelled) != len(parts.report)):
        raise InputError(
            "--max-accuracy-drop needs labels: expected an array 'labels' in the --evaluation file (or in "
            "--calibration where that is set aside from). Add it, or use --min-snr."
        )
    if settings.metric is not None and not parts.report:
        raise InputError("--metric needs at least one sample to measure. Give --evaluation.")
    if settings.min_snr is not None and not parts.report:
        raise InputError("--min-snr needs at least one sample to compare outputs on. Give --evaluation.")
    if settings.min_snr is not None:
        feeds, _ = next(join_samples(parts.report, graph.inputs, size))
        if not any(is_float(read_output(output)) for output in graph.runner()(feeds)):
            raise InputError("--min-snr needs a float output. This model has none; leave the gate out.")
    if labelled:
        feeds, labels = next(join_samples(labelled, graph.inputs, size))
        if labels is not None:
            accuracy.find_labelled_output([*map(read_output, graph.runner()(feeds))], labels)
    _expect_metrics(graph, parts, settings, size)


def _expect_metrics(graph: TracedGraph, parts: Parts, settings: Settings, size: int) -> None:
    """Refuses limits of metrics that the samples do not give, by those of a first batch."""
    if settings.max_accuracy_drop is None and (settings.max_metric_change is None or settings.metric is not None):
        return
    if not parts.report:
        raise InputError("--max-metric-change needs at least one sample to measure. Give --evaluation.")
    run, token = graph.runner(), find_token_input(graph)
    first = itertools.islice(join_samples(parts.report, graph.inputs, size), 1)
    found = accuracy.compare_models(run, run, graph.outputs, first, samples=size, next_token=token, tick=lambda: None)
    if settings.max_accuracy_drop is not None and "top1" not in found.dense:
        raise InputError(
            "--max-accuracy-drop is about top-1: expected 'labels' that are indices of classes. Use "
            "--max-metric-change for the metric of these, or --min-snr."
        )
    if settings.max_metric_change is not None and settings.metric is None and not gates.find_gated_metrics(found):
        raise InputError(
            "--max-metric-change needs a metric other than top-1: expected a language model, 'labels' that are "
            "references, or --metric module:function. Use --max-accuracy-drop for top-1."
        )
