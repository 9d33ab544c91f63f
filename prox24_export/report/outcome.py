"""What a run came to, in the sentences that every page begins with: accuracy, layers, what to expect, what next."""

import math
from collections.abc import Sequence

from prox24_export.option_values import GpuName
from prox24_export.output.destination import find_run_folder
from prox24_export.passes.graph.protocol import Reason
from prox24_export.report import engine_tables
from prox24_export.report.advice import OF_ACCURACY
from prox24_export.report.tables import change_interval, metric_name, number, signed_number, units
from prox24_export.results.engine import GpuBound
from prox24_export.results.report import AccuracyReport, OutputReport, Report

SMALL_POINTS, SMALL_SHARE = 1.0, 0.02  # of top-1, and of any other metric: up to here a loss is called small
UNSURE = 5  # times a small loss: an interval that reaches farther leaves the question open
IN_POINTS = {"top1", "top5"}
LEFT_DENSE = (Reason.EXCLUDED.value, Reason.NOT_REACHED.value, "left dense to keep the accuracy budget")
SHOWN_GPUS: tuple[GpuName, ...] = ("a100", "h100", "l4", "orin")  # in a sentence; tables have all of them
DEPLOY = "DEPLOY.md"


def count_prunable(report: Report) -> tuple[int, int]:
    """Counts the layers that are sparse, and those that could have been, whoever left them dense."""
    sparse = len(report.sparse_layers)
    could = sum(layer.state == "dense" and layer.reason.startswith(LEFT_DENSE) for layer in report.layers)
    return sparse, sparse + could


def describe_layers(report: Report) -> str:
    """How many of the prunable layers are sparse."""
    sparse, prunable = count_prunable(report)
    said = f"{sparse:,} of {prunable:,} prunable layers {'is' if prunable == 1 else 'are'} 2:4 sparse"
    left = len(report.budget.dense) if report.budget is not None else 0
    return f"{said}, {left:,} left dense to keep the budget" if left else said


def describe_accuracy(report: Report) -> str:
    """Whether the accuracy was kept, by how much it changed, and how sure that is, without a full stop."""
    accuracy = report.accuracy
    if report.data is not None and report.data.is_random:
        return "Accuracy unknown: no samples were given"
    if accuracy is None or (not accuracy.dense and not accuracy.outputs):
        return "Accuracy was not measured"
    broken = next((output for output in accuracy.outputs if output.not_finite), None)
    if broken is not None:
        return f"Accuracy lost: output {broken.name} has NaN or Inf in {broken.not_finite:,} entries"
    if accuracy.dense:
        name = _choose_metric(report, accuracy)
        return f"{_judge_metric(report, accuracy, name)}: {describe_metric(accuracy, name)}"
    return f"Accuracy was not measured, since there are no labels{_describe_outputs(accuracy.outputs)}"


def describe_metric(accuracy: AccuracyReport, name: str) -> str:
    """A metric of both models, its change with its interval where there is one, and the number of samples."""
    unit, points = units(name)
    dense, sparse = accuracy.dense[name], accuracy.sparse[name]
    change = next((change for change in accuracy.changes if change.metric == name), None)
    first, second = (f"{value:.1f}" if name in IN_POINTS else number(value, 4) for value in (dense, sparse))
    both = f"{metric_name(name)} {first}{unit} dense, {second}{unit} sparse"
    said = signed_number(round(sparse - dense, 9), points)
    if change is not None:
        said += f", {change_interval(change.low, change.high)}"
    return f"{both} ({said}) on {accuracy.samples:,} samples"


def _choose_metric(report: Report, accuracy: AccuracyReport) -> str:
    """The metric to tell first: the one whose limit is not kept, or else the first one."""
    failed = {gate.name for gate in report.gates if not gate.passed}
    others = [name for name in accuracy.dense if name not in IN_POINTS]
    if others and "max-metric-change" in failed and "max-accuracy-drop" not in failed:
        return others[0]
    return next(iter(accuracy.dense))


def _judge_metric(report: Report, accuracy: AccuracyReport, name: str) -> str:
    """Whether a metric was kept: by the limits that the user set, or else by its loss and the interval of that."""
    failed = [gate.name for gate in report.gates if not gate.passed and gate.name in OF_ACCURACY]
    if failed:
        return f"Accuracy not kept (--{failed[0]})"
    dense, sparse = accuracy.dense[name], accuracy.sparse[name]
    sign = 1 if accuracy.better.get(name) == "lower" else -1 if name in accuracy.better or name in IN_POINTS else 0
    loss = sign * (sparse - dense) if sign else abs(sparse - dense)  # of an unknown metric every change may be a loss
    small = SMALL_POINTS if name in IN_POINTS else SMALL_SHARE * abs(dense)
    change = next((change for change in accuracy.changes if change.metric == name), None)
    is_chance = change is not None and change.low <= 0 <= change.high
    if not math.isfinite(loss) or loss > small:
        return "Accuracy lost"
    said = "Accuracy kept" if loss <= 0 or is_chance else "Accuracy nearly kept"
    worst = 0.0 if change is None or not sign else max(sign * change.low, sign * change.high)
    return f"{said}, as far as so few samples tell" if worst > UNSURE * small else said


def _describe_outputs(outputs: Sequence[OutputReport]) -> str:
    """How near the outputs are to the dense ones: where fewest positions agree, and the lowest ratio."""
    shares = [(output.argmax_agreement, output.name) for output in outputs if output.argmax_agreement is not None]
    ratios = [(output.snr_db, output.name) for output in outputs if output.has_snr and output.snr_db is not None]
    equal = [(output.equal, output.name) for output in outputs if output.equal is not None]
    parts = []
    if shares:
        parts.append(f"{number(100 * min(shares)[0], 4)} % of the positions of {min(shares)[1]} have the same arg-max")
    if ratios:
        parts.append(f"the worst output, {min(ratios)[1]}, is at {number(min(ratios)[0])} dB SNR")
    elif equal:
        parts.append(f"{number(100 * min(equal)[0], 4)} % of the entries of {min(equal)[1]} are equal")
    elif not shares and any(output.has_snr for output in outputs):
        parts.append("the outputs are equal")
    return f": {', and '.join(parts)}" if parts else ""


def describe_expectation(report: Report) -> str:
    """What was measured on a GPU, or else what to expect at most, without a full stop; empty where nothing is known."""
    engine, bounds = report.engine, report.estimate.gpus if report.estimate is not None else ()
    if engine is not None and engine.latency and not engine.not_measured:
        said = engine_tables.speedup_sentence(report)
        return said[:1].upper() + said[1:]
    if not bounds or not report.sparse_layers:
        return ""
    if not any(bound.layers for bound in bounds):
        return (
            "Expect no gain on a GPU: no pruned layer has a shape for which sparse kernels are known to win "
            "(256 channels or more, K a multiple of 16)"
        )
    by_name = {bound.name: bound for bound in bounds}
    shown = [by_name[name] for name in SHOWN_GPUS if name in by_name]
    return (
        f"Expect on a GPU, for the linear layers alone, at most {', '.join(map(_describe_bound, shown))} (fp16, int8)"
    )


def _describe_bound(bound: GpuBound) -> str:
    return f"{bound.name.upper()} {number(bound.fp16)} × and {number(bound.int8)} ×"


def describe_next_step(report: Report) -> str:
    """What to do next, without a full stop; empty where nothing was pruned."""
    if not report.sparse_layers:
        return ""
    if report.data is not None and report.data.is_random:
        return "Next: give samples with --calibration, so that the masks are based on data"
    failed = [gate.name for gate in report.gates if not gate.passed]
    if report.faults or failed:
        return "Next: see what failed below, and what may help"
    if DEPLOY in report.files:
        place = find_run_folder(report.output.path, report.files) / DEPLOY
        return f"Next: build and time it on your GPU, with the lines in {place.as_posix()}"
    return ""
