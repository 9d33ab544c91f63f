"""A procedure of timing that is over at once: for tests that look at what is timed, not at the times."""

from prox24_export.engines.timing.latency import Procedure

QUICK = Procedure(warm_up_ms=1, duration_ms=1, least_rounds=4, resamples=50, turn_ms=1, most_variation=100)
