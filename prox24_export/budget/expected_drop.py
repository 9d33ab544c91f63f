"""The top-1 that a changed model is expected to lose, known four times better than by counting hits.

Both models are right or wrong together on nearly all samples. On the few where they decide differently, one hit more or
less is the toss of a coin, and a thousand such tosses cannot resolve 0.3 points. The dense model itself gives
probabilities for both decisions. Calibrated by one temperature, fitted to labels, they give the mean of those tosses:

    drop = mean over samples of p(arg-max of the dense model) − p(arg-max of the changed model),  p = softmax(z/T)

Source: temperature scaling, Guo et al., On Calibration of Modern Neural Networks (ICML 2017), section 4.2; the drop is
the conditional expectation of the difference in hits given the inputs, as far as p is calibrated. How far a count of
hits on other samples scatters about it follows from the same probabilities: a decision changed from a to b counts +1
or −1 with probability p(a) + p(b), else 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Runner
from prox24_export.validation.accuracy import find_labelled_output
from prox24_export.validation.arrays import read_output
from prox24_export.validation.classes import find_largest
from prox24_export.validation.metrics import IGNORED

LabelledBatches = Sequence[tuple[Feeds, Array]]

PER_CENT = 100.0
LARGEST = 20.0  # the largest temperature, and the largest inverse of one
STEPS = 60  # most steps of the search for the temperature; each leaves 0.62 of the interval
GOLDEN = 2 / (1 + math.sqrt(5))
ROUNDING = 1e-3  # the most by which the sum of probabilities may differ from 1


@dataclass
class ExpectedDrop:
    """The expected loss of top-1 of any changed model against one dense model, on the same labelled samples.

    It holds the dense model's probabilities for every sample, in float32.

    Attributes:
        dense: The dense model.
        batches: Feeds and labels; labels are class indices.
        reported: The number of other samples on which hits will be counted; None stands for so many that the count
            does not scatter.
        temperature: The temperature that was fitted to the labels.
    """

    dense: Runner
    batches: LabelledBatches
    reported: int | None = None
    temperature: float = field(init=False)
    _output: int = field(init=False)
    _probabilities: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        """Runs the dense model once over the batches and fits the temperature.

        Raises:
            InputError: The labels fit no output of the model.
        """
        outputs = [[*map(read_output, self.dense(feeds))] for feeds, _ in self.batches]
        self._output = find_labelled_output(outputs[0], self.batches[0][1])
        logits = [_read_logits(found[self._output]) for found in outputs]
        labels = np.concatenate([labels.reshape(-1) for _, labels in self.batches])
        self.temperature = fit_temperature(np.concatenate(logits), labels)
        self._probabilities = [np.exp(_log_softmax(part / self.temperature)) for part in logits]

    def estimate(self, changed: Runner) -> tuple[float, float, float]:
        """Estimates how much top-1 a changed model loses; runs it once over the batches.

        Where an output has another shape than the dense one, or a row holds NaN, the whole probability of the dense
        decision is lost.

        Returns:
            The expected loss in percentage points, its standard error, and the standard error of the loss that will be
            counted on the `reported` samples about this expectation: that of the expectation and of the count together.
        """
        lost: list[Array] = []
        moved: list[Array] = []
        weights: list[Array] = []
        for (feeds, labels), probabilities in zip(self.batches, self._probabilities, strict=True):
            output = read_output(changed(feeds)[self._output])
            rows, counted = np.arange(len(probabilities)), labels.reshape(-1) != IGNORED
            before, after = probabilities.max(-1), np.zeros(len(rows))
            if output.size == probabilities.size:
                largest = find_largest(output.reshape(probabilities.shape))
                after = np.where(largest < 0, 0.0, probabilities[rows, largest])
            samples = len(labels)
            for entries, sums in (
                (np.where(counted, before - after, 0.0), lost),
                (np.where(counted & (before != after), before + after, 0.0), moved),
                (counted, weights),
            ):
                sums.append(entries.reshape(samples, -1).sum(1))
        value, error = estimate_ratio(PER_CENT * np.concatenate(lost), np.concatenate(weights))
        if self.reported is None:
            return value, error, error
        second_moment, _ = estimate_ratio(PER_CENT**2 * np.concatenate(moved), np.concatenate(weights))
        return value, error, math.sqrt(error**2 + second_moment / self.reported)


def estimate_ratio(totals: npt.ArrayLike, weights: npt.ArrayLike) -> tuple[float, float]:
    """`Σ totals / Σ weights` over samples, and its standard error to first order.

    The ratio is NaN where no sample has weight; the error is infinite for fewer than two samples.
    """
    total, weight = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
    counts = int((weight > 0).sum())
    if not counts:
        return math.nan, math.inf
    value = float(total.sum() / weight.sum())
    if counts == 1:
        return value, math.inf
    deviations = total - value * weight
    return value, float(np.sqrt(np.square(deviations).sum() * counts / (counts - 1)) / weight.sum())


def fit_temperature(logits: Array, labels: Array) -> float:
    """Finds the temperature by which logits [n, C] are divided so that labels [n] become likeliest.

    The likelihood has one maximum in `1/T`, which a golden-section search finds.
    """
    counted = labels != IGNORED
    logits, labels = logits[counted], labels[counted].astype(np.int64)
    rows = np.arange(len(labels))

    def mean_surprise(inverse: float) -> float:
        return -float(_log_softmax(logits * np.float32(inverse))[rows, labels].mean(dtype=np.float64))

    low, high = 1 / LARGEST, LARGEST
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = mean_surprise(left), mean_surprise(right)
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = mean_surprise(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = mean_surprise(right)
        if high - low < 1e-3 * low:  # a thousandth of a temperature changes nothing
            break
    return 2 / (low + high)


def _read_logits(output: Array) -> npt.NDArray[np.float32]:
    """The output as logits [positions, C], float32; their logarithms where it holds probabilities."""
    rows = output.reshape(-1, output.shape[-1]).astype(np.float32)
    if (rows >= 0).all() and np.abs(rows.sum(-1) - 1).max(initial=0.0) < ROUNDING:
        return np.log(np.maximum(rows, np.finfo(np.float32).tiny))
    return rows


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
