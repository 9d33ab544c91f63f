"""How long the stages of a run may take, so that its progress can tell the time left of the whole run.

A batch of the dense model, and where layers will be tuned together a step of that, are timed before the work; the rest
are counts and constants measured on a few models. A stage that runs tells its own time, and that of stages like it.
"""

import math
import time
from collections.abc import Callable

import torch
from torch.func import functional_call

from prox24_export.data.batches import join_samples
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.graph.arrays import as_tensor
from prox24_export.passes.graph.differentiable import Differentiable
from prox24_export.passes.refine.differentiable import make_differentiable
from prox24_export.passes.refine.epochs import choose_batch, plan_epochs
from prox24_export.passes.refine.memory import measure_kept
from prox24_export.progress import can_foresee, foresee
from prox24_export.stages.measure import Measurement
from prox24_export.stages.memory import find_memory_left
from prox24_export.stages.permute import SAMPLES, why_not_by_default
from prox24_export.stages.prepare import Job
from prox24_export.stages.refine import find_minutes, is_wanted
from prox24_export.stages.run import Run

OBSERVE, SEARCH, PRUNE, SENSITIVITY = "observe channels", "search channel orders", "calibrate and prune", "sensitivity"
REFINE, ACCURACY, END = "refine", "accuracy", "write and verify"
ALIKE = frozenset({OBSERVE, PRUNE, ACCURACY})  # all of them run the graph
OPENED, SOLVED, SEARCHED = 0.03, 0.06, 0.08  # seconds of a stage of the graph, of a layer, of an order that it reads
CUBES, RATE = 60, 2e10  # operations of a wide layer, in N·K² and K³, and how many are done in a second
LARGEST = 256 << 20  # bytes of a model up to which a step is tried
STEPS_OF_A_PASS = 5.5  # time of a step, in passes of the model over its samples, where it was not tried
TRIALS, AFTERWARDS = 40, 1.1  # steps of finding the rate; those on all samples at the end come to the others
SHARE_OF_ROOM = 0.25  # of the memory that is left, up to which the activations of a step are tried
READS = 3  # times that a model is opened or read again at the end


def forecast(job: Job, measurement: Measurement, run: Run) -> None:
    """Tells the progress of a run how long its stages may take; where that cannot be found out, nothing is told."""
    if not can_foresee(run.progress) or not job.linears or not job.parts.fit:
        return
    if job.device.type != "cpu":  # what the host takes tells nothing of a GPU
        return
    try:
        with run.timed("forecast"):
            foresee(run.progress, _expect_seconds(job, measurement, run), ALIKE)
    except Exception:  # noqa: BLE001 - a guess costs no run: the time left is then told stage by stage
        return


def _expect_seconds(job: Job, measurement: Measurement, run: Run) -> dict[str, float]:
    """The seconds of each stage, in the order in which they run."""
    batch, _ = next(join_samples(job.parts.fit[: job.size], job.graph.inputs, job.size))
    runner = job.graph.runner()
    first = _time(lambda: runner(batch))  # which may load what later ones have
    once = min(first, _time(lambda: runner(batch))) / min(job.size, len(job.parts.fit))  # seconds of one sample
    opened = OPENED * len(schedule(job.graph, job.linears))
    wide = CUBES * sum(linear.n * linear.k**2 + linear.k**3 for linear in job.linears) / RATE
    fit, choice = len(job.parts.fit), len(job.parts.choice)
    expected = {}
    if job.settings.permute != "no" and why_not_by_default(job) is None:
        expected[OBSERVE] = min(SAMPLES, fit) * once + opened
        expected[SEARCH] = SEARCHED * len(job.linears) + wide
    expected[PRUNE] = 2 * (fit + choice) * once + opened + SOLVED * len(job.linears) + wide
    if is_wanted(job):
        expected[REFINE] = _expect_refinement(job, once)
    if job.settings.budget:
        expected[SENSITIVITY] = (2 * len(job.linears) + 1) * choice * once
    expected[ACCURACY] = 2 * measurement.samples * once
    expected[END] = READS * run.seconds.get("load", 0.0)
    return expected


def _expect_refinement(job: Job, once: float) -> float:
    """The seconds of tuning all layers together as it is planned, within its limit of time."""
    size = choose_batch(len(job.parts.fit))
    steps = math.ceil(len(job.parts.fit) / size)
    step, judged = STEPS_OF_A_PASS * size * once, 2 * len(job.parts.choice) * once
    if 4 * job.graph.parameters <= LARGEST:
        timed = _time_step(make_differentiable(job.graph, job.parts.fit[0].feeds), job, size)
        if timed is not None:
            step, judged = timed[0], 2 * len(job.parts.choice) / size * timed[1]
    epochs, minutes = plan_epochs(steps), find_minutes(job.settings)
    seconds = (AFTERWARDS * epochs * steps + TRIALS) * step + epochs * judged
    return seconds if minutes is None else min(seconds, 60 * minutes)


def _time_step(function: Differentiable, job: Job, size: int) -> tuple[float, float] | None:
    """Seconds of a step on so many samples, and of the dense network alone on them, which is a part of the step.

    None where the activations of so many samples may not fit: a guess must not take a run's memory.
    """
    weights = {name: value.detach() for name, value in function.module.named_parameters() if value.is_floating_point()}

    def read(samples: int) -> tuple[torch.Tensor, ...]:
        feeds, _ = next(join_samples(job.parts.fit[:samples], job.graph.inputs, samples))
        return tuple(as_tensor(feeds[value.name]) for value in job.graph.inputs)

    def call(inputs: tuple[torch.Tensor, ...]) -> None:
        with torch.no_grad():
            function.module(*inputs)

    def learn(inputs: tuple[torch.Tensor, ...]) -> None:
        moving = {name: value.detach().requires_grad_() for name, value in weights.items()}
        outputs = [value for value in functional_call(function.module, moving, inputs) if value.requires_grad]
        loss = torch.stack([value.float().square().mean() for value in outputs]).sum()
        torch.autograd.grad(loss, list(moving.values()), allow_unused=True)

    sample = read(1)
    kept = measure_kept(lambda: learn(sample), weights.values())  # which loads what later ones have, too
    if size * kept > SHARE_OF_ROOM * find_memory_left(job.settings):
        return None
    batch = read(size)
    dense = _time(lambda: call(batch))
    return dense + _time(lambda: learn(batch)), dense


def _time(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
