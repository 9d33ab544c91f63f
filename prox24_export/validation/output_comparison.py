"""One output of the dense and of the sparse model, compared in the way that fits what it holds."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prox24_export.results.report import OutputReport
from prox24_export.validation.arrays import is_float
from prox24_export.validation.equal_entries import count_equal
from prox24_export.validation.output_sums import OutputSums


@dataclass
class OutputComparison:
    """Running figures of one output over batches.

    Floats are compared by their sums of squares, and everything else by the share of equal entries. An output of which
    the two models return different sizes, as they do of detections, is not compared: no entry of one then belongs to an
    entry of the other.

    Attributes:
        sums: Figures of floats.
        equal: The number of equal entries of other values.
        entries: The number of entries of other values.
        samples: The number of samples so far.
        resized: The number of samples whose outputs differ in size.
        is_float: Whether the output holds floats.
    """

    sums: OutputSums = field(default_factory=OutputSums)
    equal: int = 0
    entries: int = 0
    samples: int = 0
    resized: int = 0
    is_float: bool = False

    def add(self, dense: Any, sparse: Any, samples: int) -> None:
        """Adds a batch.

        Args:
            dense: The dense model's output, as `read_output` returns it.
            sparse: The sparse model's output, likewise.
            samples: The number of samples in the batch.
        """
        self.samples += samples
        floats = is_float(dense) and is_float(sparse)
        self.is_float = self.is_float or floats
        if floats:
            self.sums.count_not_finite(dense, sparse)
        if isinstance(dense, np.ndarray) and isinstance(sparse, np.ndarray) and dense.shape != sparse.shape:
            self.resized += samples
        elif floats:
            self.sums.add(dense, sparse, samples)
        else:
            equal, entries = count_equal(dense, sparse)
            self.equal, self.entries = self.equal + equal, self.entries + entries

    def report(self, name: str, *, is_classes: bool) -> OutputReport:
        """Returns what is known of the output; the arguments are those of `OutputSums.report`."""
        if self.resized:
            why = f"its size depends on the data ({self.resized} of {self.samples} samples differ)"
            return OutputReport(name, None, None, None, None, not_compared=why, not_finite=self.sums.not_finite)
        if self.is_float:
            return self.sums.report(name, is_classes=is_classes)
        return OutputReport(name, None, None, None, None, equal=self.equal / self.entries if self.entries else 1.0)
