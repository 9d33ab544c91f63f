"""The page's first screen: layers, accuracy, speed and gates; and why something is not known."""

from collections.abc import Sequence
from typing import NamedTuple

from prox24_export.report import content, engine_tables
from prox24_export.report.html_charts import label
from prox24_export.report.tables import number
from prox24_export.results.engine import EngineReport, Estimate, LatencyPoint, LayerDiagnosis
from prox24_export.results.report import Gate, Report

NOTHING_TIMED = "no engine was built or timed in this run"


class Step(NamedTuple):
    """One step from all layers to those that a sparse tactic computes."""

    label: str
    layers: str
    share: float


class Timing(NamedTuple):
    """What was timed at one set of input shapes."""

    label: str
    ratio: str
    verdict: str
    notes: Sequence[str]
    valid: bool


class Speed(NamedTuple):
    """The measured ratios, or the reason why there are none; `bound` is an estimate, apart from the measurements."""

    engine: str
    reason: str
    timings: Sequence[Timing]
    bound: str
    basis: str


class VerdictBox(NamedTuple):
    """A gate; `verdict` is passed, failed or inconclusive, and `words` also say what an inconclusive one counts as."""

    name: str
    value: str
    limit: str
    verdict: str
    words: str


def steps(report: Report) -> tuple[list[Step], str]:
    """The steps (layers found, pruned, eligible, with a sparse tactic) that are known, and why others are not."""
    found, pruned = len(report.layers), len(report.sparse_layers)
    names = (
        ("eligible", "sparse tactic chosen") if not _is_torch(report) else ("fits torch.sparse", "run by torch.sparse")
    )
    told = diagnoses(report).values()
    eligible, chosen = [layer.eligible for layer in told], [layer.chosen for layer in told]
    counts = (found, pruned, *(states.count(True) if _is_told(states) else None for states in (eligible, chosen)))
    rows = [
        Step(name, f"{count:,}", 100 * count / max(found, 1))
        for name, count in zip(("found", "pruned to 2:4", *names), counts, strict=True)
        if count is not None
    ]
    return rows, _unknown(report, eligible, chosen)


def diagnoses(report: Report) -> dict[str, LayerDiagnosis]:
    """What the engine says of the pruned layers, by node name; what it says of other layers is left out."""
    pruned = {layer.name for layer in report.sparse_layers}
    return {layer.name: layer for layer in (report.engine.layers if report.engine else ()) if layer.name in pruned}


def _unknown(report: Report, eligible: Sequence[bool | None], chosen: Sequence[bool | None]) -> str:
    if not report.sparse_layers:
        return ""
    if not eligible:
        reason = report.engine.not_measured.removesuffix(".") if report.engine else ""
        return f"Only an engine’s builder tells what is eligible and chosen: {reason or NOTHING_TIMED}."
    missing = [
        f"whether {states.count(None):,} of {len(states):,} pruned layers {words}"
        for states, words in ((eligible, "are eligible"), (chosen, "got a sparse tactic"))
        if None in states
    ]
    return f"It is not known {', nor '.join(missing)}." if missing else ""


def engine_name(engine: EngineReport) -> str:
    """Engine, version, precision and device, and whether it is not TensorRT; empty where there is no engine."""
    if engine.engine == "none":
        return ""
    other = "" if engine.engine == "tensorrt" else " (not TensorRT)"
    return engine_tables.format_engine(engine) + other + (f" on {engine.device}" if engine.device else "")


def speed(report: Report) -> Speed:
    """What was timed, or why nothing was, and the bound of the speed-up."""
    engine, estimate = report.engine or EngineReport("none"), report.estimate
    reason = (engine.not_measured or ("" if engine.latency else NOTHING_TIMED)).removesuffix(".")
    return Speed(
        engine=engine_name(engine),
        reason=reason,
        timings=[] if reason else [_timing(point, engine.latency) for point in engine.latency],
        bound=f"{number(estimate.bound)} ×" if estimate and estimate.flops else "",
        basis=_describe_basis(estimate) if estimate else "",
    )


def _describe_basis(estimate: Estimate) -> str:
    left = engine_tables.name_uncounted(estimate)  # the page tells of products of activations where it shows shapes
    if not estimate.flops:
        return f"no figure, {left}" if left else ""
    share = f"{number(100 * estimate.sparse_share)} % of the linear layers’ operations are in pruned layers"
    return f"{share}{left and f', {left}'}"


def gates(report: Report) -> list[VerdictBox]:
    """Every gate with what was measured, its interval and its limit."""
    return [
        VerdictBox(
            gate.name, content.gate_value(gate), content.gate_limit(gate), _verdict(gate), content.gate_verdict(gate)
        )
        for gate in report.gates
    ]


def overall_verdict(report: Report) -> str:
    """The verdict on all gates together: the worst of failed, inconclusive and passed."""
    verdicts = {_verdict(gate) for gate in report.gates}
    return next((verdict for verdict in ("failed", "inconclusive") if verdict in verdicts), "passed")


def engine_state(layer: LayerDiagnosis | None, *, is_torch: bool) -> tuple[str, int | None]:
    """What the engine made of a layer, and its rank for sorting; empty and None where the engine says nothing of it."""
    if layer is None:
        return "", None
    if layer.chosen:
        return ("torch.sparse" if is_torch else "sparse tactic"), 0
    if layer.eligible:
        return ("eligible, not chosen" if layer.chosen is False else "eligible, choice not told"), 1
    if layer.eligible is None:
        return ("dense tactic" if layer.chosen is False else "not told"), 2
    return "not eligible", 3


def _is_torch(report: Report) -> bool:
    return report.engine is not None and report.engine.engine == "torch"


def _is_told(states: Sequence[bool | None]) -> bool:
    return any(state is not None for state in states)


def _timing(point: LatencyPoint, points: Sequence[LatencyPoint]) -> Timing:
    verdict = point.speedup.verdict if point.valid else "not to be trusted"
    return Timing(
        label(point, points),
        engine_tables.format_ratio(point.speedup),
        verdict,
        (*point.reasons, *point.warnings),
        point.valid,
    )


def _verdict(gate: Gate) -> str:
    return gate.verdict or ("passed" if gate.passed else "failed")
