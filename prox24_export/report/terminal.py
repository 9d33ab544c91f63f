"""What the command prints: the verdict after a run, and the table of `inspect`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from prox24_export.output.destination import ONNX, find_run_folder, list_beside
from prox24_export.report import deploy, outcome, permutation, terminal_budget
from prox24_export.report.advice import advise
from prox24_export.report.engine_tables import name_uncounted
from prox24_export.report.tables import units
from prox24_export.results.engine import EngineReport, Estimate, LatencyPoint
from prox24_export.results.gain import GpuGain
from prox24_export.results.permutation import SpaceReport
from prox24_export.results.plan import Plan
from prox24_export.results.report import Gate, LayerReport, OutputReport, Report

WIDTH = 100
ENGINE_NAMES = {"tensorrt": "TensorRT", "torch": "torch.sparse (not TensorRT)", "onnxruntime": "ONNX Runtime, CPU"}
IN_TERMINAL = {"TensorRT 11", "Polygraphy"}  # the other lines are in DEPLOY.md
COLUMNS = ("name", "op", "weight", "k", "n", "parameters", "share", "state", "reason", "notes")


def render(report: Report) -> str:
    """Renders the result of a run: the verdict in a sentence, then a line for each thing that was found."""
    lines = _head_lines(report)
    reasons = Counter(layer.reason.split(" (")[0] for layer in report.layers if layer.state == "dense")
    lines += [f"  dense: {count} × {reason}" for reason, count in reasons.most_common()]
    if report.budget is not None:
        lines += terminal_budget.budget_table(report.budget).rstrip("\n").splitlines()
    if report.permutation is not None:
        lines.append(permutation.summarise(report.permutation))
    if report.refinement is not None:
        lines.append(f"{'refined' if report.refinement.kept else 'not refined'}: {report.refinement.reason}")
    if report.accuracy is not None:
        lines += _accuracy_lines(report)
    lines += engine_lines(report)
    lines += [_gate_line(gate) for gate in report.gates]
    lines += [f"failed: {fault.stage}: {fault.message}" for fault in report.faults]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines.append(f"{', '.join(_list_outputs(report))}  ({report.seconds['total']:.1f} s)")
    return "\n".join(lines) + "\n"


def _list_outputs(report: Report) -> list[str]:
    """The written model, and the ONNX file of a torch model where the user gave that a name of its own."""
    above = find_run_folder(report.output.path, report.files).parent
    named = [str(above / name) for name in list_beside(report.files) if name.lower().endswith(ONNX)]
    return list(dict.fromkeys([report.output.path, *named]))


def _head_lines(report: Report) -> list[str]:
    """The verdict: accuracy and layers, what to expect on a GPU, what to do next, and what may help."""
    weights = sum(layer.parameters for layer in report.sparse_layers)
    if not report.sparse_layers and report.budget is not None and report.budget.verdict == "only dense":
        return [f"0 of {len(report.layers)} linear layers are 2:4 sparse: only the dense model keeps the limit"]
    if not report.sparse_layers:
        return [f"nothing eligible: {report.output.path} is a copy of {report.input.path}"]
    layers = f"{outcome.describe_layers(report)} ({weights:,} weights, verified)"
    more = outcome.describe_expectation(report), advise(report), outcome.describe_next_step(report)
    steps = [f"  {step.lines[0]}" for step in deploy.list_steps(report) if step.title in IN_TERMINAL]
    return [
        f"{outcome.describe_accuracy(report)}; {layers}.",
        *(f"{line.rstrip('.')}." for line in more if line),
        *steps,
    ]


def engine_lines(report: Report) -> list[str]:
    """The estimate, and the speed-up or, in one line, why there is none."""
    lines = []
    engine, expected = report.engine, report.estimate
    if expected is not None and report.sparse_layers:
        lines.append(f"estimate: {_format_estimate(expected)}")
    if engine is None:
        return lines
    lines += _int8_lines(engine)
    states = [layer for layer in engine.layers if engine.engine == "tensorrt"]
    if states:
        eligible, chosen = (sum(getattr(layer, name) is True for layer in states) for name in ("eligible", "chosen"))
        lines.append(f"TensorRT: {eligible} of {len(states)} pruned layers eligible, {chosen} with a sparse tactic")
    lines += [_latency_line(engine.engine, point) for point in engine.latency]
    if engine.not_measured:
        lines.append(f"speed-up not measured: {engine.not_measured}")
    return lines


def _int8_lines(engine: EngineReport) -> list[str]:
    """Accuracy and size of the INT8 files; none in another precision."""
    lines = [
        f"{name} in int8: {engine.dense_accuracy[name]:.2f}{units(name)[0]} dense, {value:.2f}{units(name)[0]} sparse"
        for name, value in engine.accuracy.items()
        if name in engine.dense_accuracy
    ]
    if engine.sizes:
        whole, small = engine.sizes["sparse float"], engine.sizes["sparse onnx"]
        lines.append(f"sparse.int8.onnx: {small / 1e6:.2f} MB, {100 * small / whole:.0f} % of the float model's")
    return lines


def _format_estimate(found: Estimate) -> str:
    left = name_uncounted(found)
    if not found.flops:
        return f"no figure{left and f', {left}'}"
    share = f"{100 * found.sparse_share:.1f} % of the linear layers' operations are in sparse layers"
    return f"{share}, at most {found.bound:.2f} times as fast{left and f', {left}'}"


def latency_table(report: Report) -> str:
    """What `bench` prints."""
    layers = f"{len(report.sparse_layers)} of {len(report.layers)} linear layers of {report.output.path} are 2:4 sparse"
    lines = [layers] if report.layers else []
    lines += engine_lines(report)
    doubts = dict.fromkeys(
        text for point in (report.engine.latency if report.engine else ()) for text in point.warnings
    )
    lines += [_gate_line(gate) for gate in report.gates]
    lines += [f"warning: {text}" for text in (*report.warnings, *doubts)]
    return "\n".join(lines) + "\n"


def _latency_line(engine: str, point: LatencyPoint) -> str:
    ratio, name = point.speedup, ENGINE_NAMES.get(engine, engine)
    told = f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {ratio.verdict}"
    verdict = told if point.valid else f"INVALID: {'; '.join(point.reasons)}"
    medians = f"{point.dense.median:.3f} ms dense, {point.sparse.median:.3f} ms sparse"
    return f"{name}, batch {point.batch}: {medians}: {verdict}"


def _gate_line(gate: Gate) -> str:
    verdict = "passed" if gate.passed else "FAILED"
    verdict = f"inconclusive, {verdict}" if gate.verdict == "inconclusive" else verdict
    value = "not measured" if gate.value is None else f"{gate.value:.2f} {gate.unit}"
    return f"gate {gate.name}: {verdict} ({value}, limit {gate.limit:g} {gate.unit})"


def _accuracy_lines(report: Report) -> list[str]:
    accuracy = report.accuracy
    if accuracy is None:
        return []
    lines = [
        f"{name}: {value:.2f}{units(name)[0]} dense, "
        f"{accuracy.sparse[name]:.2f}{units(name)[0]} sparse on {accuracy.samples} samples"
        for name, value in accuracy.dense.items()
    ]
    return lines + [f"output {output.name}: {_describe_output(output)}" for output in accuracy.outputs]


def _describe_output(output: OutputReport) -> str:
    if output.not_finite:
        return f"NaN or Inf in {output.not_finite:,} entries, and not in the dense model's"
    if output.not_compared:
        return f"{output.not_compared}; not compared"
    if output.equal is not None:
        return f"{100 * output.equal:.2f} % of the entries equal to dense"
    snr = "equal to dense" if output.snr_db is None else f"{output.snr_db:.1f} dB SNR"
    cosine = "" if output.cosine is None else f", cosine {output.cosine:.5f}"
    agreement = "" if output.argmax_agreement is None else f", {100 * output.argmax_agreement:.2f} % same arg-max"
    return snr + cosine + agreement


def plan_table(plan: Plan) -> str:
    """What `--plan` prints: memory and time of the whole run, and the stages that take the most of each."""
    each, at_best = (" in each process", f" at best with {plan.workers} workers") if plan.workers else ("", "")
    lines = [f"peak memory {plan.memory_mb:,.0f} MB{each}, time {plan.seconds:,.0f} s{at_best}"]
    if plan.stages:
        largest = max(plan.stages, key=lambda stage: stage.memory_mb)
        longest = max(plan.stages, key=lambda stage: stage.seconds)
        lines.append(f"  most memory: {largest.memory_mb:,.0f} MB at {', '.join(largest.layers)}")
        lines.append(f"  most time: {longest.seconds:,.1f} s at {', '.join(longest.layers)}")
    if (done := plan.resumed) is not None:
        left = f"{len(done.layers)} of {done.total} layers are solved, {done.total - len(done.layers)} are left"
        epochs = f"; {done.epochs} epoch{'s' * (done.epochs != 1)} of the refinement are done" if done.epochs else ""
        lines.append(f"  an interrupted run goes on: {left}{epochs}")
    lines += [f"  assumed: {assumption}" for assumption in plan.assumptions]
    if plan.quantises:
        lines.append("  scales and files of --precision int8 are not included")
    if plan.refines:
        lines.append("  the refinement of all layers together is not included (--no-refine, --refine-minutes)")
    return "\n".join(lines) + "\n"


def layers_json(
    layers: Sequence[LayerReport], spaces: Sequence[SpaceReport] | None = None, gain: GpuGain | None = None
) -> str:
    """The table of `inspect` as JSON: a list of layers, or an object with what else was asked for beside them."""
    rows: list[dict[str, Any]] = [{key: asdict(layer)[key] for key in COLUMNS} for layer in layers]
    more: dict[str, Any] = {}
    if spaces is not None:
        more["channel_spaces"] = [permutation.describe_space(space) for space in spaces]
    if gain is not None:
        more["gain"] = asdict(gain)
    content = {"layers": rows, **more} if more else rows
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def spaces_table(spaces: Sequence[SpaceReport]) -> str:
    """The channel spaces that `inspect` finds, a line each."""
    free = sum(space.state != "fixed" for space in spaces)
    lines = [f"{free} of {len(spaces)} channel spaces are free"]
    for space in spaces:
        layers = f"read by {len(space.readers)} layer{'s' * (len(space.readers) > 1)}"
        blocks = f" in {space.blocks} blocks" if space.blocks > 1 else ""
        state = f"fixed: {space.reason}" if space.state == "fixed" else "free"
        lines.append(f"  {space.name}: {space.channels} channels{blocks}, {layers}, {state}")
    return "\n".join(lines) + "\n"


def layers_table(layers: Sequence[LayerReport]) -> str:
    """The table of `inspect`, at most 100 columns wide."""
    from rich.console import Console  # noqa: PLC0415 (only the table needs it)
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    table.add_column("name", overflow="fold", max_width=30)
    table.add_column("op", overflow="fold")
    for title in ("K", "N", "parameters", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("reason or notes", overflow="fold")
    for layer in layers:
        table.add_row(
            layer.name,
            layer.op,
            "" if layer.k is None else str(layer.k),
            "" if layer.n is None else str(layer.n),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{100 * layer.share:.1f} %" if layer.parameters else "",
            "eligible" if layer.state == "sparse" else layer.state,
            layer.reason or "; ".join(layer.notes),
        )
    text = StringIO()
    console = Console(file=text, width=WIDTH, highlight=False, markup=False, emoji=False)
    console.print(table)
    eligible = [layer for layer in layers if layer.state == "sparse"]
    share = 100 * sum(layer.share for layer in eligible)
    console.print(f"{len(eligible)} of {len(layers)} eligible, {share:.1f} % of the parameters")
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
