"""The first screen: which layers, at what accuracy, how fast, within which limits; and why something is not known."""

from collections.abc import Sequence
from typing import NamedTuple

from prox24_export.report import engine_tables, markdown
from prox24_export.report.html_charts import label
from prox24_export.results.engine import EngineReport, LatencyPoint, LayerDiagnosis
from prox24_export.results.report import Gate, Report

NOTHING_TIMED = "no engine was built or timed in this run"


class Step(NamedTuple):
    """One step from all layers to those that a sparse tactic computes; a dash where it is not known."""

    label: str
    layers: str
    share: float


class Timing(NamedTuple):
    """One set of input shapes."""

    label: str
    ratio: str
    verdict: str
    notes: Sequence[str]
    valid: bool


class Speed(NamedTuple):
    """Measured ratios, or why there are none; `bound` is an estimate and never among the measurements."""

    engine: str
    reason: str
    timings: Sequence[Timing]
    bound: str
    basis: str


class VerdictBox(NamedTuple):
    """A gate: `verdict` is passed, failed or inconclusive; `words` also say which an inconclusive one counts as."""

    name: str
    value: str
    limit: str
    verdict: str
    words: str


def steps(report: Report) -> tuple[list[Step], str]:
    """Found, pruned, eligible, sparse tactic chosen; and why a step is not known."""
    found, pruned = len(report.layers), len(report.sparse_layers)
    names = (
        ("eligible", "sparse tactic chosen") if not _is_torch(report) else ("fits torch.sparse", "run by torch.sparse")
    )
    told = diagnoses(report).values()
    eligible, chosen = [layer.eligible for layer in told], [layer.chosen for layer in told]
    counts = (found, pruned, *(states.count(True) if _is_told(states) else None for states in (eligible, chosen)))
    rows = [
        Step(name, "–" if count is None else f"{count:,}", 100 * (count or 0) / max(found, 1))
        for name, count in zip(("found", "pruned to 2:4", *names), counts, strict=True)
    ]
    return rows, _unknown(report, eligible, chosen)


def diagnoses(report: Report) -> dict[str, LayerDiagnosis]:
    """What the engine says of pruned layers, by layer; one that prunes nothing itself may speak of the others too."""
    pruned = {layer.name for layer in report.sparse_layers}
    return {layer.name: layer for layer in (report.engine.layers if report.engine else ()) if layer.name in pruned}


def _unknown(report: Report, eligible: Sequence[bool | None], chosen: Sequence[bool | None]) -> str:
    if not report.sparse_layers:
        return ""
    if not eligible:
        reason = report.engine.not_measured.removesuffix(".") if report.engine else ""
        return f"Only an engine’s builder tells what is eligible and chosen: {reason or NOTHING_TIMED}."
    missing = [
        f"{states.count(None):,} of {len(states):,} pruned layers not told whether {words}"
        for states, words in ((eligible, "eligible"), (chosen, "chosen"))
        if None in states
    ]
    return "; ".join(missing) + "." * bool(missing)


def engine_name(engine: EngineReport) -> str:
    """Engine, version, precision and device; of what is not TensorRT it says so; empty where there is none."""
    if engine.engine == "none":
        return ""
    other = "" if engine.engine == "tensorrt" else " (not TensorRT)"
    return engine_tables.name(engine) + other + (f" on {engine.device}" if engine.device else "")


def speed(report: Report) -> Speed:
    """What was timed, or why nothing was, and the bound."""
    engine, estimate = report.engine or EngineReport("none"), report.estimate
    reason = (engine.not_measured or ("" if engine.latency else NOTHING_TIMED)).removesuffix(".")
    basis = (
        estimate
        and f"{markdown.number(100 * estimate.sparse_share)} % of the linear layers’ operations are in pruned layers"
    )
    return Speed(
        engine=engine_name(engine),
        reason=reason,
        timings=[] if reason else [_timing(point, engine.latency) for point in engine.latency],
        bound=f"{markdown.number(estimate.bound)} ×" if estimate else "",
        basis=basis or "",
    )


def gates(report: Report) -> list[VerdictBox]:
    """Every gate with what was measured, its interval and its limit."""
    return [
        VerdictBox(
            gate.name, markdown.gate_value(gate), markdown.gate_limit(gate), _verdict(gate), markdown.gate_verdict(gate)
        )
        for gate in report.gates
    ]


def overall(report: Report) -> str:
    """Of all gates: failed, inconclusive or passed; a failure decides."""
    verdicts = {_verdict(gate) for gate in report.gates}
    return next((verdict for verdict in ("failed", "inconclusive") if verdict in verdicts), "passed")


def engine_state(layer: LayerDiagnosis | None, *, is_torch: bool) -> tuple[str, int | None]:
    """What the engine made of a layer, and its rank for sorting; empty where the engine says nothing of it."""
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
        engine_tables.times(point.speedup),
        verdict,
        (*point.reasons, *point.warnings),
        point.valid,
    )


def _verdict(gate: Gate) -> str:
    return gate.verdict or ("passed" if gate.passed else "failed")
