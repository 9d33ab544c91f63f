"""The measures of outputs that refinement minimises: how far they are from the dense network's, sample by sample."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from jaxtyping import Float
from torch import Tensor

OutputTensors = tuple[Tensor, ...]
Custom = Callable[[OutputTensors, OutputTensors], Tensor]
LossKind = Literal["kl", "logits", "probabilities", "cosine", "mse", "none"]

AT_CUTS = 10.0  # weight of the mean over cuts against the mean over outputs
MATRIX, SEQUENCES = 2, 3  # axes of [N, C] and [N, T, C]
UNDECIDED = 0.9  # outputs whose mean entropy is at least this share of log C are no logits
ROUNDING = 1e-3  # how far a sum of probabilities or a norm may be from 1
SMALLEST = 1e-30  # least probability and least variance
IMPOSSIBLE = -1e30  # in place of a logit that is left out: its probability is exactly 0, its gradient no NaN


@dataclass(frozen=True)
class OutputLoss:
    """The measure of one output.

    - `kl`: `KL(softmax(d) ‖ softmax(s))` along the last axis, in nats.
    - `logits`: `(s − d)²` about the means along the last axis, divided by `scale`: what `T²·kl` of logits divided by
      `T` tends to for large `T`.
    - `probabilities`: `KL(d ‖ s)` along the last axis, in nats. Probabilities below 1e-30 count as 1e-30 in its
      logarithms, because what softmax leaves of unlikely classes says nothing.
    - `cosine`: `1 − cos(s, d)` along the last axis.
    - `mse`: `(s − d)²` divided by `scale`.
    - `none`: 0, for outputs that are no floats.

    Here `s` and `d` are the outputs of the pruned and of the dense network. Entries in which `d` is NaN or infinite,
    such as logits that a mask sets to −Inf, are left out.

    Attributes:
        kind: Which of these measures it is.
        scale: Variance of what is compared in the dense network.
    """

    kind: LossKind
    scale: float = 1.0

    def of(self, sparse: Tensor, dense: Tensor, samples: int) -> Float[Tensor, " samples"]:
        """Computes the mean of the measure for each sample.

        Args:
            sparse: Output of the pruned network.
            dense: Output of the dense network.
            samples: Number of samples. It is 1 where samples cannot be told apart along the first axis.
        """
        if self.kind == "none":
            return torch.zeros(samples, device=dense.device)
        if self.kind in {"logits", "mse"}:
            return normalised_error(self._compared(sparse, dense), self._compared(dense, dense), self.scale, samples)
        kept = find_finite(dense)
        terms = self._of_rows(*(_fill(output.float(), kept, self._filler) for output in (sparse, dense)))
        return average_by_sample(terms, samples, None if kept is None else kept.any(-1))

    @staticmethod
    def detect(dense: Tensor) -> "OutputLoss":
        """Finds the measure that fits an output: its values tell logits, probabilities and unit vectors apart.

        Logits are outputs [N, C] or [N, T, C] whose softmax is decided: its mean entropy is below nine tenths of
        `log C`. With [N, C] each sample gives only one distribution, and a few samples make up most of a confident
        network's divergence and are soon learnt by heart. Therefore the measure is `logits` there, and `kl` for
        sequences.

        Args:
            dense: The output of the dense network for a batch.
        """
        if not dense.is_floating_point() or dense.numel() == 0:
            return OutputLoss("none")
        return OutputLoss(_detect_kind(dense.float())).scaled(dense)

    def scaled(self, dense: Tensor) -> "OutputLoss":
        """The same measure with the variance of this dense output as its scale."""
        return self if self.kind == "none" else replace(self, scale=measure_spread(self._compared(dense, dense)))

    @property
    def _filler(self) -> float:
        return IMPOSSIBLE if self.kind == "kl" else 0.0

    def _of_rows(self, sparse: Tensor, dense: Tensor) -> Tensor:
        """The measure of each row along the last axis, of outputs in float32."""
        if self.kind == "cosine":
            return 1 - torch.cosine_similarity(sparse, dense, dim=-1)
        if self.kind == "probabilities":
            wanted, got = (output.clamp_min(SMALLEST).log() for output in (dense, sparse))
            return (dense * (wanted - got)).sum(-1)
        wanted, got = dense.log_softmax(-1), sparse.log_softmax(-1)
        return (wanted.exp() * (wanted - got)).sum(-1)

    def _compared(self, output: Tensor, dense: Tensor) -> Tensor:
        """What is compared of an output; NaN where the dense one has to be left out."""
        output = output.float()
        if self.kind != "logits":
            return output
        kept = find_finite(dense)
        if kept is None:
            return output - output.mean(-1, keepdim=True)
        mean = _fill(output, kept, 0.0).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(1)
        return _fill(output, kept, math.nan) - mean


def find_finite(dense: Tensor) -> Tensor | None:
    """Finds the entries that are numbers, True at each; None where all of them are known to be."""
    if dense.device.type != "cpu":  # to ask a GPU would be to wait for it, for each output of each step
        return torch.isfinite(dense)
    if math.isfinite(float(dense.sum())):  # one pass in place of five; a sum may also overflow
        return None
    finite = torch.isfinite(dense)
    return None if bool(finite.all()) else finite


def _fill(output: Tensor, kept: Tensor | None, filler: float) -> Tensor:
    return output if kept is None else output.masked_fill(~kept, filler)


def normalised_error(sparse: Tensor, dense: Tensor, scale: float, samples: int) -> Float[Tensor, " samples"]:
    """Computes the mean of `(s − d)² / scale` for each sample, in float32, over the entries in which `d` is finite."""
    kept = find_finite(dense)
    sparse, dense = (_fill(value.float(), kept, 0.0) for value in (sparse, dense))
    return average_by_sample(F.mse_loss(sparse, dense, reduction="none"), samples, kept) / scale


def average_by_sample(terms: Tensor, samples: int, kept: Tensor | None = None) -> Float[Tensor, " samples"]:
    """Averages the terms of each sample; the samples lie one after the other along the first axis.

    Args:
        terms: The terms.
        samples: Number of samples.
        kept: True at each term that counts, in the shape of the terms; None where all count. Where none of a sample
            counts, its mean is 0.
    """
    if kept is None:
        return terms.reshape(samples, -1).mean(1)
    count = kept.reshape(samples, -1).sum(1).clamp_min(1)
    return _fill(terms, kept, 0.0).reshape(samples, -1).sum(1) / count


def measure_spread(dense: Tensor) -> float:
    """Measures the mean squared deviation from the mean over samples, of entries that are finite.

    With one sample only, the deviation is that from the mean of all entries.
    """
    dense = dense.detach().float()
    several = dense.ndim > 1 and len(dense) > 1
    kept = find_finite(dense)
    if kept is not None:
        dense = _fill(dense, kept, math.nan)
        centre = dense.nanmean(0, keepdim=True) if several else dense.nanmean()
        return max(SMALLEST, float((dense - centre).square().nanmean()))  # SMALLEST, and not NaN, where none is finite
    centre = dense.mean(0, keepdim=True) if several else dense.mean()
    return max(float((dense - centre).square().mean()), SMALLEST)


def count_samples(results: Sequence[Tensor]) -> int:
    """Counts the samples that a network's results hold along their first axis; 1 where the results disagree."""
    sizes = {len(result) if result.ndim else 0 for result in results}
    return max(1, sizes.pop()) if len(sizes) == 1 else 1


def _detect_kind(dense: Tensor) -> LossKind:
    if dense.ndim not in {MATRIX, SEQUENCES} or dense.shape[-1] == 1:
        return "mse"
    kept = find_finite(dense)
    values = _fill(dense, kept, 0.0)
    if bool((values >= 0).all()) and bool((values.sum(-1) - 1).abs().max() < ROUNDING):
        return "probabilities"
    if bool((values.norm(dim=-1) - 1).abs().max() < ROUNDING):
        return "cosine"
    logarithms = _fill(dense, kept, IMPOSSIBLE).log_softmax(-1)
    entropies = -(logarithms.exp() * logarithms).sum(-1)
    undecided = math.log(dense.shape[-1])
    if kept is not None:
        classes, entropies = (of_rows[kept.any(-1)] for of_rows in (kept.sum(-1), entropies))
        undecided = float(classes.float().log().mean())
    if not float(entropies.mean()) < UNDECIDED * undecided:
        return "mse"
    return "logits" if dense.ndim == MATRIX else "kl"
