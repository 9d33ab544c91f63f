"""What to try where the sparse model loses much: of what measurements say helps, what this run has not done."""

from collections.abc import Iterator

from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT
from prox24_export.results.report import Report

MOST_POINTS, LEAST_AGREEMENT = 3.0, 0.95  # points of top-1, and share of equal arg-max, beyond which a loss is much
MANY_SAMPLES = 1024  # calibration samples beyond which more of them are not the first thing to try
ASKED_FOR = "--refine weights"  # the reason of a refinement names it where it would be done if it were asked for
OF_ACCURACY = {"max-accuracy-drop", "max-metric-change", "min-snr"}


def advise(report: Report) -> str | None:
    """Says that the sparse model loses much, and what may help; None where it does not."""
    loss = _describe_loss(report) if report.sparse_layers else None
    ways = list(_list_ways(report)) if loss is not None else []
    return None if loss is None else f"{loss}." + (f" What may help: {'; '.join(ways)}." if ways else "")


def _describe_loss(report: Report) -> str | None:
    failed = [gate.name for gate in report.gates if not gate.passed and gate.name in OF_ACCURACY]
    if failed:
        return f"The sparse model does not keep --{failed[0]}"
    if report.accuracy is None:
        return None
    dense, sparse = report.accuracy.dense, report.accuracy.sparse
    if "top1" in dense:
        points = dense["top1"] - sparse["top1"]
        return f"The sparse model loses {points:.1f} points of top-1" if points > MOST_POINTS else None
    shares = [(one.argmax_agreement, one.name) for one in report.accuracy.outputs if one.argmax_agreement is not None]
    share, name = min(shares, default=(1.0, ""))
    if share >= LEAST_AGREEMENT:
        return None
    return f"The sparse model has another arg-max at {100 * (1 - share):.1f} % of the positions of output {name}"


def _list_ways(report: Report) -> Iterator[str]:
    data, settings = report.data, report.settings
    is_baseline = settings.get("method", "prox") not in AIMS_AT_DENSE_OUTPUT
    if is_baseline:
        yield f"--method prox, the default: {settings['method']} is a baseline to compare with"
    if data is not None and data.is_random:
        yield "real samples instead of random ones (--calibration)"
    elif data is not None and data.fit + data.choice < MANY_SAMPLES:
        yield f"more calibration samples than {data.fit + data.choice:,}"
    if not is_baseline and (report.refinement is None or ASKED_FOR in report.refinement.reason):
        yield f"tuning all layers together ({ASKED_FOR})"
    if settings.get("effort") != "thorough" and not is_baseline:
        yield "--effort thorough"
    if report.budget is None:
        yield "leaving the layers dense that cost most (--budget with a limit, or --exclude what --sensitivity names)"
