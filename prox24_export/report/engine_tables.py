"""Engines in sentences and tables: latency, states of layers, and the estimate, which is always called an estimate."""

from collections.abc import Sequence

from prox24_export.report.tables import Table, interval, number
from prox24_export.results.engine import Distribution, EngineReport, Estimate, LatencyPoint, LayerDiagnosis, Ratio
from prox24_export.results.report import Report

ENGINE_NAMES = {"tensorrt": "TensorRT", "torch": "torch.sparse", "onnxruntime": "ONNX Runtime", "none": "no engine"}


def speedup_sentence(report: Report) -> str:
    """The speed-up with its interval at the first set of shapes, or why there is none; empty without an engine."""
    engine = report.engine
    if engine is None:
        return ""
    if engine.not_measured or not engine.latency:
        return f"speed-up not measured: {engine.not_measured or 'nothing was timed'}"
    point = engine.latency[0]
    where = f"{format_engine(engine)}, {format_shapes(point)}"
    if not point.valid:
        return f"speed-up not valid ({where}): {'; '.join(point.reasons)}"
    return f"speed-up {format_ratio(point.speedup)} with {where}: {point.speedup.verdict}"


def format_engine(engine: EngineReport) -> str:
    """The name of the engine with its version and precision."""
    return " ".join(part for part in (ENGINE_NAMES[engine.engine], engine.version, engine.precision) if part)


def estimate_sentence(found: Estimate | None) -> str:
    """The bound in one sentence; empty where it is unknown. Whoever renders it labels it as an estimate."""
    if found is None:
        return ""
    left = describe_left_out(found)
    if not found.flops:
        return f"There is no figure: {left}." if left else ""
    share = f"{number(100 * found.sparse_share)} % of the linear layers’ operations are in pruned layers"
    bound = f"sparse kernels could make the model at most {number(found.bound)} × as fast"
    return f"{share}; {bound}{f', {left}' if left else ''}."


def describe_left_out(found: Estimate) -> str:
    """What is in none of the estimate's figures, to go behind them; empty where everything is in them."""
    parts = [name_uncounted(found)] if found.not_counted else []
    if found.of_activations:
        parts.append(f"products of two activations ({found.of_activations:,}) are no linear layers and are left out")
    return "; ".join(parts)


def name_uncounted(found: Estimate) -> str:
    """The linear layers that are in none of the estimate's figures; empty where there are none."""
    return f"of what could be counted; not counted: {'; '.join(found.not_counted)}" if found.not_counted else ""


def tables(report: Report) -> dict[str, Table]:
    """All tables about engines, by name; a table of what does not exist has no rows."""
    engine = report.engine or EngineReport("none")
    missing = [layer for layer in engine.layers if not (layer.pattern and layer.eligible and layer.chosen)]
    title = f"Latency with {format_engine(engine)}{f' on {engine.device}' if engine.device else ''}"
    columns = ("Shapes", "Dense", "Sparse", "Speed-up (95 %)", "By sparse kernels (95 %)", "Verdict")
    shapes_of = report.estimate.shapes if report.estimate else ()
    return {
        "latency": Table(title, columns, [_latency_row(point) for point in engine.latency]),
        "states": Table("Pruned layers in the engine", ("State", "Layers"), _states(engine.layers)),
        "missing": Table(
            f"Pruned layers for which a state is missing or unknown ({len(missing):,})",
            ("Layer", "Pattern, eligible, chosen", "Reason", "Remedy"),
            [
                (layer.name, _format_states(layer), layer.reason or layer.disagreement, layer.remedy)
                for layer in missing
            ],
        ),
        "disagreements": Table(
            "Builder log against inspector", ("Disagreement",), [(x,) for x in engine.disagreements]
        ),
        "precision": _precision_table(report, engine),
        "sizes": Table("Files in INT8", ("File", "Bytes on disk"), [(k, f"{v:,}") for k, v in engine.sizes.items()]),
        "scales": Table("How INT8 scales were chosen", ("Model", "Choice"), list(engine.scales.items())),
        "float_outputs": Table(
            f"Layers in INT8 whose result is float32 ({len(engine.float_outputs):,})",
            ("Layer", "Reason"),
            list(engine.float_outputs.items()),
        ),
        "kept": Table("Left in float32", ("Node", "Reason"), list(engine.kept_in_fp32.items())),
        "estimate": Table(
            "*Estimate*: where the operations are",
            ("K × N", "Rows", "Layers", "Sparse", "Share of operations"),
            [
                (
                    f"{entry.k:,} × {entry.n:,}",
                    f"{entry.tokens:,}",
                    f"{entry.layers:,}",
                    f"{entry.sparse:,}",
                    f"{number(100 * entry.share)} %",
                )
                for entry in shapes_of
            ],
        ),
    }


def _precision_table(report: Report, engine: EngineReport) -> Table:
    """The accuracy of the converted files; in INT8 that of both, beside both models in float32."""
    if not engine.dense_accuracy or report.accuracy is None:
        rows = [(metric, number(value, 4)) for metric, value in engine.accuracy.items()]
        return Table(f"Sparse model in {engine.precision}", ("Metric", "Value"), rows)
    figures = report.accuracy.dense, engine.dense_accuracy, report.accuracy.sparse, engine.accuracy
    return Table(
        "Accuracy in float32 and in INT8",
        ("Metric", "Dense float32", "Dense INT8", "Sparse float32", "Sparse INT8"),
        [(metric, *(number(some[metric], 4) if metric in some else "" for some in figures)) for metric in figures[0]],
    )


def format_shapes(point: LatencyPoint) -> str:
    """The input shapes of one measurement, as text."""
    return ", ".join(f"{key} {'×'.join(map(str, shape))}" for key, shape in point.shapes.items())


def format_ratio(ratio: Ratio) -> str:
    """A ratio with its interval, as text."""
    return f"{number(ratio.value)} ×{interval(ratio.low, ratio.high)}"


def _latency_row(point: LatencyPoint) -> tuple[str, ...]:
    verdict = point.speedup.verdict if point.valid else f"not valid: {'; '.join(point.reasons)}"
    alone = "" if point.flag_speedup is None else format_ratio(point.flag_speedup)
    said = "; ".join([verdict, *point.warnings])
    return (
        format_shapes(point),
        _format_median(point.dense),
        _format_median(point.sparse),
        format_ratio(point.speedup),
        alone,
        said,
    )


def _format_median(found: Distribution) -> str:
    return f"{number(found.median, 4)} ms, p99 {number(found.p99, 4)}"


def _states(layers: Sequence[LayerDiagnosis]) -> list[tuple[str, str]]:
    if not layers:
        return []
    states: dict[str, list[bool | None]] = {
        "2:4 pattern right": [layer.pattern for layer in layers],
        "eligible for sparse tactics": [layer.eligible for layer in layers],
        "sparse tactic chosen": [layer.chosen for layer in layers],
    }
    rows = []
    for said, values in states.items():
        unknown = values.count(None)
        left = f", {unknown:,} unknown" if unknown else ""
        rows.append((said, f"{values.count(True):,} of {len(layers):,}{left}"))
    return rows


def _format_states(layer: LayerDiagnosis) -> str:
    said = {True: "yes", False: "no", None: "unknown"}
    return ", ".join(said[state] for state in (layer.pattern, layer.eligible, layer.chosen))
