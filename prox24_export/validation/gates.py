"""Limits the user set, and whether the run kept them."""

import math

from prox24_export.report.model import AccuracyReport, Gate
from prox24_export.settings import Settings


def evaluate(settings: Settings, accuracy: AccuracyReport | None, *, is_copy: bool = False) -> tuple[Gate, ...]:
    """A verdict for every limit. A limit whose value could not be measured is not passed.

    Args:
        settings: Holds the limits.
        accuracy: What was measured.
        is_copy: Whether the output is a byte copy of the input: it loses nothing, measured or not.
    """
    gates = []
    if settings.max_accuracy_drop is not None:
        drop = 0.0 if is_copy else None
        if accuracy is not None and "top1" in accuracy.dense:
            drop = accuracy.dense["top1"] - accuracy.sparse["top1"]
        passed = drop is not None and drop <= settings.max_accuracy_drop + 1e-9  # a rounding error is no drop
        gates.append(Gate("max-accuracy-drop", drop, settings.max_accuracy_drop, "points", passed))
    if settings.min_snr is not None:
        ratios = [] if accuracy is None else [output.snr_db for output in accuracy.outputs]
        worst = min((math.inf if ratio is None else ratio for ratio in ratios), default=math.inf if is_copy else None)
        passed = worst is not None and worst >= settings.min_snr
        gates.append(Gate("min-snr", worst, settings.min_snr, "dB", passed))
    return tuple(gates)
