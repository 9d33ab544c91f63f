"""The change of a metric between two models on the same samples."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A metric's change from the dense to the sparse model on the same samples, with its 95 % interval.

    Attributes:
        metric: Name of the metric, as in `AccuracyReport.dense`.
        value: Sparse minus dense, in the metric's unit.
        low: Lower end of a paired bootstrap interval over samples.
        high: Upper end of the interval.
        samples: Number of samples that were resampled.
    """

    metric: str
    value: float
    low: float
    high: float
    samples: int
