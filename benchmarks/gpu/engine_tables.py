"""An engine's report and the estimate beside it, as Markdown."""

from prox24_export.report.engine_tables import describe_left_out
from prox24_export.results.engine import EngineReport, Estimate, LatencyPoint


def write_section(report: EngineReport, expected: Estimate) -> str:
    """One model on one engine, as Markdown. Losses stand in it like gains."""
    title = "TensorRT" if report.engine == "tensorrt" else "torch.sparse (not TensorRT)"
    share = f"{100 * expected.sparse_share:.0f} % of the linear layers' operations are in pruned layers"
    bound = f"*estimate*: at most {expected.bound:.2f} times as fast"
    left = describe_left_out(expected)
    lines = [f"{title} {report.version}, {report.precision}. {share}; {bound}{left and f', {left}'}."]
    if report.not_measured:
        return "\n".join([*lines, "", f"Not measured: {report.not_measured}", ""])
    lines += ["", "| batch | dense, ms | sparse, ms | speed-up | 95 % interval | by the flag | verdict |"]
    lines += ["|---|---|---|---|---|---|---|", *map(_row, report.latency), ""]
    if report.layer_times:
        lines += ["| one product | dense, ms | sparse, ms | speed-up |", "|---|---|---|---|"]
        for entry in report.layer_times:
            if entry.dense_ms is not None and entry.sparse_ms is not None:
                times = f"{entry.dense_ms:.4f} | {entry.sparse_ms:.4f} | {entry.dense_ms / entry.sparse_ms:.2f}"
                lines.append(f"| {entry.name} | {times} |")
        lines.append("")
    lines += [f"- {warning}" for warning in dict.fromkeys(text for point in report.latency for text in point.warnings)]
    return "\n".join([*lines, ""])


def _row(point: LatencyPoint) -> str:
    ratio = point.speedup
    verdict = ratio.verdict if point.valid else f"INVALID: {'; '.join(point.reasons)}"
    flag = f"{point.flag_speedup.value:.3f}" if point.flag_speedup else ""
    interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    medians = f"{point.dense.median:.4f} | {point.sparse.median:.4f}"
    return f"| {point.batch} | {medians} | {ratio.value:.3f} | {interval} | {flag} | {verdict} |"
