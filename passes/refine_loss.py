"""What refinement minimises: how far the outputs of a network are from another's, sample by sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Outputs = tuple[Tensor, ...]
Custom = Callable[[Outputs, Outputs], Tensor]
Kind = Literal["kl", "probabilities", "cosine", "mse", "none"]

AT_CUTS = 10.0  # weight of the mean over cuts against the mean over outputs
CLASSIFIER, SEQUENCE = 4.0, 1.0  # temperatures
MATRIX, SEQUENCES = 2, 3  # axes of [N, C] and [N, T, C]
SMALLEST = 1e-30


@dataclass(frozen=True)
class OutputLoss:
    """The measure of one output.

    - `kl`: `T²·KL(softmax(d/T) ‖ softmax(s/T))` along the last axis, in nats; `probabilities` the same of logarithms.
    - `cosine`: `1 − cos(s, d)` along the last axis.
    - `mse`: `(s − d)²` divided by `scale`.
    - `none`: 0, of outputs that are no floats.

    Attributes:
        kind: Which.
        scale: Variance of the dense output, for `mse`.
        temperature: `T`.
    """

    kind: Kind
    scale: float = 1.0
    temperature: float = 1.0

    def of(self, sparse: Tensor, dense: Tensor, samples: int) -> Float[Tensor, " samples"]:
        """Mean of each sample; `samples` is 1 where outputs cannot be told apart along their first axis."""
        if self.kind == "none":
            return torch.zeros(samples, device=dense.device)
        sparse, dense = sparse.float(), dense.float()
        if self.kind == "mse":
            return normalised_error(sparse, dense, self.scale, samples)
        if self.kind == "cosine":
            return _by_sample(1 - torch.cosine_similarity(sparse, dense, dim=-1), samples)
        if self.kind == "probabilities":
            sparse, dense = sparse.clamp_min(SMALLEST).log(), dense.clamp_min(SMALLEST).log()
        wanted = (dense / self.temperature).log_softmax(-1)
        got = (sparse / self.temperature).log_softmax(-1)
        terms = (wanted.exp() * (wanted - got)).sum(-1) * self.temperature**2
        return _by_sample(terms, samples)

    @staticmethod
    def detect(dense: Tensor, kind: Kind | None = None, temperature: float | None = None) -> "OutputLoss":
        """The measure that fits an output by its values: they tell logits, probabilities and unit vectors apart.

        Logits are [N, C] or [N, T, C] whose softmax is decided, its mean entropy below nine tenths of `log C`.

        Args:
            dense: What the dense network returns for a batch.
            kind: The measure, where it is given.
            temperature: None takes 4 for [N, C], of which a sample gives only one distribution, and 1 for [N, T, C].
        """
        if not dense.is_floating_point() or dense.numel() == 0:
            return OutputLoss("none")
        dense = dense.float()
        kind = kind or _detected(dense)
        automatic = CLASSIFIER if dense.ndim == MATRIX else SEQUENCE
        return OutputLoss(kind, spread(dense), temperature or automatic)


def normalised_error(sparse: Tensor, dense: Tensor, scale: float, samples: int) -> Float[Tensor, " samples"]:
    """`(s − d)² / scale`, the mean of each sample."""
    return _by_sample((sparse.float() - dense.float()).square() / scale, samples)


def spread(dense: Tensor) -> float:
    """Mean variance about the mean over samples; about the mean of all entries where there is only one."""
    dense = dense.detach().float()
    several = dense.ndim > 1 and len(dense) > 1
    centre = dense.mean(0, keepdim=True) if several else dense.mean()
    return max(float((dense - centre).square().mean()), SMALLEST)


def samples_of(results: Sequence[Tensor]) -> int:
    """How many samples a network's results hold along their first axis; 1 where they differ."""
    sizes = {len(result) if result.ndim else 0 for result in results}
    return max(1, sizes.pop()) if len(sizes) == 1 else 1


def _detected(dense: Tensor) -> Kind:
    if dense.ndim not in {MATRIX, SEQUENCES} or dense.shape[-1] < MATRIX:
        return "mse"
    if bool((dense >= 0).all()) and bool((dense.sum(-1) - 1).abs().max() < 1e-3):  # noqa: PLR2004 (rounding)
        return "probabilities"
    if bool((dense.norm(dim=-1) - 1).abs().max() < 1e-3):  # noqa: PLR2004 (as above)
        return "cosine"
    logarithms = dense.log_softmax(-1)
    entropy = -(logarithms.exp() * logarithms).sum(-1).mean()
    decided = float(entropy) < 0.9 * float(torch.tensor(float(dense.shape[-1])).log())
    return "kl" if decided else "mse"


def _by_sample(terms: Tensor, samples: int) -> Tensor:
    return terms.reshape(samples, -1).mean(1)
