"""The measures of outputs that refinement minimises: how far they are from the dense network's, sample by sample."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
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

    Here `s` and `d` are the outputs of the pruned and of the dense network.

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
        if self.kind == "cosine":
            return average_by_sample(1 - torch.cosine_similarity(sparse.float(), dense.float(), dim=-1), samples)
        if self.kind == "probabilities":
            wanted, got = (output.float().clamp_min(SMALLEST).log() for output in (dense, sparse))
            return average_by_sample((dense.float() * (wanted - got)).sum(-1), samples)
        if self.kind == "kl":
            wanted, got = dense.float().log_softmax(-1), sparse.float().log_softmax(-1)
            return average_by_sample((wanted.exp() * (wanted - got)).sum(-1), samples)
        return normalised_error(self._compared(sparse), self._compared(dense), self.scale, samples)

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
        return self if self.kind == "none" else replace(self, scale=measure_spread(self._compared(dense)))

    def _compared(self, output: Tensor) -> Tensor:
        logits = output.float()
        return logits - logits.mean(-1, keepdim=True) if self.kind == "logits" else logits


def normalised_error(sparse: Tensor, dense: Tensor, scale: float, samples: int) -> Float[Tensor, " samples"]:
    """Computes the mean of `(s − d)² / scale` for each sample, in float32."""
    return average_by_sample((sparse.float() - dense.float()).square() / scale, samples)


def average_by_sample(terms: Tensor, samples: int) -> Float[Tensor, " samples"]:
    """Averages the terms of each sample; the samples lie one after the other along the first axis."""
    return terms.reshape(samples, -1).mean(1)


def measure_spread(dense: Tensor) -> float:
    """Measures the mean squared deviation from the mean over samples.

    With one sample only, the deviation is that from the mean of all entries.
    """
    dense = dense.detach().float()
    several = dense.ndim > 1 and len(dense) > 1
    centre = dense.mean(0, keepdim=True) if several else dense.mean()
    return max(float((dense - centre).square().mean()), SMALLEST)


def count_samples(results: Sequence[Tensor]) -> int:
    """Counts the samples that a network's results hold along their first axis; 1 where the results disagree."""
    sizes = {len(result) if result.ndim else 0 for result in results}
    return max(1, sizes.pop()) if len(sizes) == 1 else 1


def _detect_kind(dense: Tensor) -> LossKind:
    if dense.ndim not in {MATRIX, SEQUENCES} or dense.shape[-1] == 1:
        return "mse"
    if bool((dense >= 0).all()) and bool((dense.sum(-1) - 1).abs().max() < ROUNDING):
        return "probabilities"
    if bool((dense.norm(dim=-1) - 1).abs().max() < ROUNDING):
        return "cosine"
    logarithms = dense.log_softmax(-1)
    entropy = -float((logarithms.exp() * logarithms).sum(-1).mean())
    if entropy >= UNDECIDED * math.log(dense.shape[-1]):
        return "mse"
    return "logits" if dense.ndim == MATRIX else "kl"
