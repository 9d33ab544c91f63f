"""A procedure of timing that is over at once: for tests that look at what is timed, not at the times."""

import pytest

from prox24_export.engines.timing import latency
from prox24_export.engines.timing.latency import Procedure

QUICK = Procedure(warm_up_ms=1, duration_ms=1, least_rounds=4, resamples=50, turn_ms=1, most_variation=100)


def time_onnxruntime(monkeypatch: pytest.MonkeyPatch, procedure: Procedure = QUICK) -> None:
    """Has ONNX Runtime timed by this procedure, whoever asks for its times."""
    measure = latency.measure_latency
    quick = lambda *a, **k: measure(*a, **(k | {"procedure": procedure}))  # noqa: E731 - it takes the other's place
    monkeypatch.setattr("prox24_export.engines.onnxruntime.measure_latency", quick)  # by name: some tests have no onnx
