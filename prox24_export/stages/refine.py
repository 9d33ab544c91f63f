"""Refinement after the layers: from stored weights to a differentiable model and back, and what is reported of it."""

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from prox24_export import user_code
from prox24_export.data.checked_arrays import can_join
from prox24_export.data.sample_list import Sample
from prox24_export.errors import InputError, Prox24Error, first_line
from prox24_export.facts.free_memory import find_free_memory
from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT
from prox24_export.passes.graph.arrays import Array, as_tensor
from prox24_export.passes.graph.differentiable import Differentiable
from prox24_export.passes.graph.on_device import exact_products
from prox24_export.passes.graph.protocol import Input, Linear, TracedGraph
from prox24_export.passes.refine.differentiable import make_differentiable
from prox24_export.passes.refine.epochs import choose_batch
from prox24_export.passes.refine.model import RefineModel
from prox24_export.passes.refine.moving import free_module, move_module
from prox24_export.passes.refine.state import Refined, RefineProgress
from prox24_export.progress import Progress, Steps
from prox24_export.results.report import EpochReport, RefinementReport
from prox24_export.settings import Settings
from prox24_export.stages.device_memory import Blocks, do_in_smaller_blocks
from prox24_export.stages.gradient import find_reached, why_not_reached
from prox24_export.stages.journal import Journal
from prox24_export.stages.memory import find_memory_left
from prox24_export.stages.prepare import Job

COPIES = 8  # of a weight, float32: master, average, best, two moments of Adam, gradient, what came in, what goes out
SHARE_OF_MEMORY = 0.7  # that weights may take of what is free
MEMORY_BY_DEFAULT, MINUTES_BY_DEFAULT = 4 << 30, 10.0  # most bytes of weights, and time, where nobody asked for it
MODEL_BY_DEFAULT = 2 << 30  # most bytes of the model, whatever part of it is pruned
MINUTES_IF_THOROUGH = 40.0
HELD_BACK_BY_DEFAULT = 8  # with three of 16 samples held back it was kept where it did not help, see README
STEPS, TRIALS = 100, 1  # of the progress bar: shares of the training, and whatever is done before it
PLANNED = 1 / 1.1  # share of the training that its planned steps are; those on all samples come to them
NOT_BETTER = "it was not better on the held-back samples by more than noise and what solving on them should bring"
BEFORE, TRAINING = "before", "training"  # kinds of steps
WANTED = "takes (pruned outputs, dense outputs), tuples of tensors, and returns a loss: a scalar or one value a sample"


def open_differentiable(job: Job) -> Differentiable | RefinementReport | None:
    """Opens the model as a differentiable function, or tells why it is not refined.

    Returns:
        The function; or a report that says why there is no refinement; or None where none is wanted, or no layer can
        be pruned.

    The layers are tuned on the fit part, and the choice part decides whether the result is kept.
    """
    graph, linears, parts, settings = job.graph, job.linears, job.parts, job.settings
    if settings.refine == "no" or not linears:
        return None
    if (reason := _why_not_by_default(job) or _why_impossible(job)) is not None:
        return RefinementReport(kept=False, reason=reason)
    if settings.refine_loss is not None:
        _expect_loss(settings.refine_loss, graph, parts.fit[0])
    feeds = parts.fit[0].feeds
    try:
        function = make_differentiable(graph, feeds)
        reason = why_not_reached(function, graph, linears, feeds)
    except Prox24Error as error:
        return RefinementReport(kept=False, reason=str(error))
    except Exception as error:  # noqa: BLE001 - of torch or of its runtime; layers are solved all the same
        return RefinementReport(kept=False, reason=f"torch cannot run it: {first_line(error)}")
    return function if reason is None else RefinementReport(kept=False, reason=reason)


def is_wanted(job: Job) -> bool:
    """Whether layers are refined, as far as the model lets them be."""
    wanted = job.settings.refine != "no" and bool(job.linears)
    return wanted and (_why_not_by_default(job) or _why_impossible(job)) is None


def _why_not_by_default(job: Job) -> str | None:
    """Tells why the refinement has to be asked for; None where it was asked for, or need not be."""
    if job.settings.refine != "auto":
        return None
    if job.facts is not None and job.facts.is_random:
        return "random inputs teach nothing about what the model is for (--calibration)"
    if job.settings.method not in AIMS_AT_DENSE_OUTPUT:
        return f"{job.settings.method} is a baseline to compare with (--refine weights)"
    if (held := len(job.parts.choice)) < HELD_BACK_BY_DEFAULT:
        return f"{held} samples held back tell little, {HELD_BACK_BY_DEFAULT} would do (--refine weights)"
    return _why_too_large(job)


def _why_too_large(job: Job) -> str | None:
    size, needed = 4.0 * job.graph.parameters, _needed_bytes(job.graph, job.linears)
    if size > MODEL_BY_DEFAULT:  # its activations are kept for the gradient
        return f"the model takes {size / 2**30:.1f} GB of memory, and its time (--refine weights)"
    if needed > MEMORY_BY_DEFAULT:
        return f"it takes about {needed / 2**30:.1f} GB of memory, and its time (--refine weights)"
    return None


def _why_impossible(job: Job) -> str | None:
    """Tells why the refinement cannot be done with these samples on this machine; None where it can."""
    if len(job.parts.choice) < 2:  # noqa: PLR2004 - a deviation takes two
        return "too few samples to hold any back, on which it could be judged"
    needed = _needed_bytes(job.graph, job.linears)
    free = min(find_memory_left(job.settings), float(find_free_memory(job.device)))
    if needed > SHARE_OF_MEMORY * free:
        return f"it takes about {needed / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free"
    return None


def _expect_loss(spec: str, graph: TracedGraph, sample: Sample) -> None:
    """Calls the user's loss once, before any work.

    Raises:
        InputError: It fails, or returns no loss.
    """
    outputs = tuple(as_tensor(np.array(output)) for output in graph.runner()(sample.feeds))
    tracked = tuple(output.clone().requires_grad_(output.is_floating_point()) for output in outputs)
    value = user_code.call_function(spec, "--refine-loss", WANTED, lambda function: function(tracked, outputs))
    samples = len(outputs[0]) if outputs and outputs[0].ndim else 1
    if not isinstance(value, Tensor) or not value.requires_grad or tuple(value.shape) not in {(), (samples,)}:
        shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
        raise InputError(
            f"--refine-loss {spec} returned a {type(value).__name__}{shape}. Expected a function that {WANTED}, "
            "with a gradient."
        )


def refine(
    function: Differentiable,
    job: Job,
    linears: Sequence[Linear],
    weights: Mapping[str, Array],
    *,
    tuned: MutableMapping[str, Array],
    progress: Progress,
    journal: Journal,
    warn: Callable[[str], None] = lambda _: None,
) -> RefinementReport:
    """Tunes the solved weights together, where that is better on held-back samples.

    Args:
        function: The dense model.
        job: The job with the same model. Its choice part decides, and its settings say what to refine, and how.
        linears: Its pruned layers; those that no gradient reaches stay as they are, as integers do.
        weights: Solved weights by name, as they are stored.
        tuned: Takes the tuned weights where the result is kept, and only then.
        progress: Where to show progress.
        journal: Has the progress of an interrupted run, and takes that of this one.
        warn: Told in a sentence where the GPU has no room for the usual batches.

    Raises:
        DeviceMemoryError: The GPU has too little memory, one sample at a time too.
    """
    graph, parts, settings = job.graph, job.parts, job.settings
    fixed = function.solved_buffers(linears, weights)
    integers = sum(linear.weight in function.dequantised for linear in linears)
    linears = find_reached(function, linears)
    solved = function.pruned_parameters(linears, weights)
    known = journal.read_progress(job.device) or RefineProgress()

    def attempt(halvings: int) -> Refined:
        nonlocal known
        known = known.with_halvings(halvings)
        with _show_on(job.device, function, progress) as tick:
            return _pass_settings(settings, halvings).call(
                dense=function.module,
                weights=solved,
                masks={name: tensor != 0 for name, tensor in solved.items()},
                fit=_TensorSamples(parts.fit, graph.inputs),
                choice=_TensorSamples(parts.choice, graph.inputs),
                fixed=fixed,
                groups=function.list_groups(linears, solved) if settings.method == "prox-model" else None,
                joinable=can_join(graph.inputs),
                tick=_bar_of_shares(tick),
                progress=known,
                saved=journal.save_progress,
            )

    try:
        result = do_in_smaller_blocks(attempt, [job.device], warn, _find_blocks(job), known.halvings)
    except RuntimeError as error:  # torch's, e.g. for outputs whose size depends on the data; layers stay as solved
        return RefinementReport(kept=False, reason=f"torch cannot run it: {first_line(error)}")
    finally:
        free_module(function.module)
    if result.kept:
        tuned.update(function.stored_tensors(graph, linears, result.weights))
    return _tell_of_integers(_report(result, job, solved), integers)


@contextmanager
def _show_on(device: torch.device, function: Differentiable, progress: Progress) -> Iterator[Steps]:
    """Moves the model to its device, and shows there how far the refinement is."""
    move_module(function.module, device)
    exact, kinds = nullcontext() if device.type == "cpu" else exact_products(), {BEFORE: TRIALS, TRAINING: STEPS}
    with exact, progress.stage("refine", STEPS + TRIALS, kinds) as tick:
        yield tick


def _tell_of_integers(report: RefinementReport, integers: int) -> RefinementReport:
    if not integers:
        return report
    left = "1 layer stored as integers stays" if integers == 1 else f"{integers} layers stored as integers stay"
    return replace(report, reason=f"{report.reason}; {left} as solved")


def _find_blocks(job: Job) -> Blocks:
    """Finds how often the batches of the refinement may be halved, and what helps where that does not."""
    most = choose_batch(len(job.parts.fit), together=True) if can_join(job.graph.inputs) else 1
    smallest = "the refinement does not fit with one sample in a batch"
    instead = "--refine-mode segments, --no-refine or --device cpu"
    return Blocks("the refinement's batches of this size", most.bit_length() - 1, smallest, instead)


def _pass_settings(settings: Settings, halvings: int) -> RefineModel:
    custom = None
    if (spec := settings.refine_loss) is not None:

        def custom(pruned: tuple[Tensor, ...], dense: tuple[Tensor, ...]) -> Tensor:
            value: Tensor = user_code.call_function(
                spec, "--refine-loss", WANTED, lambda function: function(pruned, dense)
            )
            return value

    return RefineModel(
        which="weights" if settings.refine == "auto" else settings.refine,  # type: ignore[arg-type] # "no" comes not here
        mode=settings.refine_mode,
        target=settings.refine_target,
        thorough=settings.effort == "thorough",
        minutes=find_minutes(settings),
        custom=custom,
        halvings=halvings,
        seed=settings.seed,
        memory=find_memory_left(settings),
    )


def find_minutes(settings: Settings) -> float | None:
    """The most minutes that the refinement may take; None where there is no limit."""
    if settings.refine != "auto" or settings.refine_minutes is not None:
        return settings.refine_minutes
    return MINUTES_IF_THOROUGH if settings.effort == "thorough" else MINUTES_BY_DEFAULT


def _needed_bytes(graph: TracedGraph, linears: Sequence[Linear]) -> float:
    """Bytes of the dense model, and of everything that is held of each pruned weight."""
    return 4.0 * graph.parameters + 4.0 * COPIES * sum(linear.parameters for linear in linears)


class _TensorSamples(Sequence[tuple[Tensor, ...]]):
    """Samples as tensors in the order of the inputs; each is read when it is asked for."""

    def __init__(self, samples: Sequence[Sample], inputs: Sequence[Input]) -> None:
        self._samples, self._inputs = samples, inputs

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Tensor, ...]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return _TensorSamples(self._samples[index], self._inputs)
        feeds = self._samples[index].feeds
        return tuple(as_tensor(feeds[value.name]) for value in self._inputs)


def _bar_of_shares(tick: Steps) -> Callable[[float, object], None]:
    """Makes steps of a progress bar of the shares of the work that are done; each call but the first is an epoch."""
    done = epochs = 0

    def to(share: float, _epoch: object) -> None:
        nonlocal done, epochs
        if not epochs:
            tick(BEFORE)
        epochs += 1
        tick.place(f"epoch {epochs}")
        while done < math.floor(STEPS * PLANNED * min(1.0, share)):
            tick(TRAINING)
            done += 1

    return to


def measure_moved(result: Refined, solved: Mapping[str, Tensor]) -> float | None:
    """Measures which share of the surviving weights does not survive in the solved layers.

    Args:
        result: What came of the refinement.
        solved: The solved weights by name of the parameter.

    Returns:
        The share; None in segments, where masks stay.
    """
    if result.mode != "model":
        return None
    pairs = [(solved[name] != 0, result.weights[name].cpu() != 0) for name in solved]
    kept = sum(int(before.sum()) for before, _ in pairs)
    return sum(int((after & ~before).sum()) for before, after in pairs) / kept if kept else 0.0


def _tell_of_segments(settings: Settings) -> str:
    """Tells what was asked for and is not done where memory lets only a segment be tuned at a time."""
    masks = ["masks stayed as they were solved"] if settings.method == "prox-model" else []
    views = ["views were no target"] if settings.refine_target == "views" else []
    why = "to tune all layers at once takes more than half of the free memory, and a segment at a time"
    return f"; {why} {' and '.join([*masks, *views])}" if masks or views else ""


def _report(result: Refined, job: Job, solved: Mapping[str, Tensor]) -> RefinementReport:
    settings = job.settings
    change = f"the held-back samples' objective went from {result.before:.4g} to {result.after:.4g}"
    if result.target == "views":
        change += " (what the dense model says of eighteen views of an image together is the target)"
    reason = change if result.kept else NOT_BETTER
    if not math.isfinite(result.before):
        reason = "the solved layers' objective on the held-back samples is NaN or Inf, so that nothing can be better"
    minutes = find_minutes(settings)
    if minutes is not None and any(part.limited for part in result.parts):
        reason += f"; it ended with its limit of {minutes:g} minutes (--refine-minutes)"
    reason += _tell_of_segments(settings) if result.mode == "segments" else ""
    curve = tuple(
        EpochReport(segment, epoch.number, _finite_or_none(epoch.train), _finite_or_none(epoch.held))
        for segment, part in enumerate(result.parts)
        for epoch in part.curve
    )
    return RefinementReport(
        result.kept,
        reason,
        result.mode,
        len(job.parts.choice),
        _finite_or_none(result.before),
        _finite_or_none(result.after),
        curve,
        round(result.seconds, 3),
        result.target,
        sum(part.taken_back for part in result.parts),
        measure_moved(result, solved) if job.settings.method == "prox-model" else None,
    )


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
