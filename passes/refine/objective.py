"""The objective of a network or a segment: how far its outputs and values at cuts are from the dense network's."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx
from torch.func import functional_call

from prox24_export.passes.refine.loss import (
    AT_CUTS,
    Custom,
    OutputLoss,
    count_samples,
    measure_spread,
    normalised_error,
)
from prox24_export.passes.refine.views import Inputs, make_mirrored_views, make_shifted_views

NetworkValues = tuple[Any, ...]  # tensors, and integers such as sizes
# What the dense and the pruned network read. For a whole network both are the same object.
StreamPair = Iterable[NetworkValues]  # two: a tuple, or what moves them to a GPU when they are asked for

OF_CLASSES = {"kl", "logits", "probabilities"}  # measures of outputs whose last axis holds classes
SCALE_BATCHES = 8  # batches on which scales and the first error are measured
MOST_KEPT = 64 * 2**20  # bytes of the dense network's values for held-back samples


@dataclass(frozen=True)
class Objective:
    """`mean over outputs of their loss + 10 · mean over cuts of (s − d)² / variance of d`, sample by sample.

    Here `s` and `d` are the values of the pruned and of the dense network. The values at the cuts hold far more about a
    sample than a few logits do; with them a few hundred samples are not learnt by heart. The target may instead be what
    the dense network says about several views of an image together. Then the module has no cuts, because each view has
    values of its own there.

    Attributes:
        module: The network. It returns its outputs and then the values at the cuts. Its own parameters are the dense
            network's.
        outputs: The measure of each output.
        scales: Variance of the dense values at each cut.
        custom: A measure of all outputs in place of `outputs`: (pruned, dense) → a scalar or one value per sample.
        together: Whether the target is what the dense network says of views together; then its only input is a batch of
            images.
        fixed: What buffers of the module hold in the pruned network, by their names, where that is something else than
            in the dense one. It never moves.
    """

    module: fx.GraphModule
    outputs: tuple[OutputLoss, ...] = ()
    scales: tuple[float, ...] = ()
    custom: Custom | None = None
    together: bool = False
    fixed: Mapping[str, Tensor] = field(default_factory=dict)

    def of(
        self, weights: Mapping[str, Tensor], pair: StreamPair, target: Inputs | None = None
    ) -> Float[Tensor, " samples"]:
        """Computes the objective of each sample of a batch.

        Args:
            weights: Weights by name of the parameter that they replace. They are cast to that parameter's type, so that
                float32 copies of float16 weights get the gradient of what is stored.
            pair: What the dense and the pruned network read.
            target: What the pruned network should return. None computes it with the dense network.
        """
        dense_feeds, sparse_feeds = pair
        dense = self._target(dense_feeds, make_mirrored_views) if target is None else target
        sparse = self._call(self._cast(weights), sparse_feeds)
        samples = count_samples(dense)
        return self._of_outputs(sparse, dense, samples) + AT_CUTS * self._of_cuts(sparse, dense, samples)

    def held(
        self, pairs: Callable[[], Iterable[StreamPair]]
    ) -> Callable[[Mapping[str, Tensor]], Float[Tensor, " samples"]]:
        """Makes a function that measures weights on these inputs, sample by sample and without a gradient.

        The dense network's values are computed once, as far as they take at most 64 MB; those of other batches are
        computed each time. Where views together are the target there are eighteen of them, and all are kept. The nearer
        a target is to the truth, the fewer samples are needed to tell whether weights are better.

        Args:
            pairs: Returns the batches of inputs, each time anew.
        """
        targets = list(self._keep(pairs()))

        def measured(weights: Mapping[str, Tensor]) -> Tensor:
            each = zip(pairs(), targets, strict=True)
            with torch.no_grad():
                values = [self.of(weights, pair, target).float().cpu() for pair, target in each]
            return torch.cat(values) if values else torch.zeros(0)

        return measured

    def measure_agreement(self, weights: Mapping[str, Tensor], pairs: Iterable[StreamPair]) -> float | None:
        """Measures at which share of the positions of outputs that hold classes both networks have the same arg-max.

        Args:
            weights: Weights by name of the parameter that they replace.
            pairs: Batches of inputs.

        Returns:
            The share over all such outputs; None where no output holds classes.
        """
        same = [torch.zeros(0)]
        with torch.no_grad():
            for dense_feeds, sparse_feeds in pairs:
                both = self.module(*dense_feeds), self._call(self._cast(weights), sparse_feeds)
                for loss, dense, sparse in zip(self.outputs, *both, strict=False):
                    if loss.kind in OF_CLASSES:
                        same.append((dense.argmax(-1) == sparse.argmax(-1)).flatten().float().cpu())
        seen = torch.cat(same)
        return float(seen.mean()) if len(seen) else None

    def fitted(self, pairs: Iterable[StreamPair], outputs: int) -> "Objective":
        """Fits the measures to what the dense network returns for the first batches.

        Args:
            pairs: Batches of inputs, of which the first eight are looked at.
            outputs: The number of the module's results that are outputs; the others are values at cuts.
        """
        losses: list[OutputLoss] = []
        measures: list[Tensor] = []
        spreads: list[Tensor] = []
        for dense_feeds, _ in itertools.islice(pairs, SCALE_BATCHES):
            with torch.no_grad():
                dense = tuple(self.module(*dense_feeds))
            if not losses:
                losses = [self._loss(output) for output in dense[:outputs]]
            scaled = [loss.scaled(d) for loss, d in zip(losses, dense, strict=False)]
            measures.append(torch.tensor([loss.scale for loss in scaled]))
            spreads.append(torch.tensor([measure_spread(d) for d in dense]))
        means = torch.stack(measures).mean(0).tolist()
        losses = [replace(loss, scale=scale) for loss, scale in zip(losses, means, strict=True)]
        return replace(self, outputs=tuple(losses), scales=tuple(torch.stack(spreads).mean(0)[outputs:].tolist()))

    def _of_outputs(self, sparse: Inputs, dense: Inputs, samples: int) -> Tensor:
        count = len(self.outputs)
        if self.custom is not None:
            value = self.custom(sparse[:count], dense[:count])
            return value if value.ndim else value.expand(samples)
        terms = [loss.of(s, d, samples) for loss, s, d in zip(self.outputs, sparse, dense, strict=False)]
        return _average(terms, samples, dense[0].device)

    def _of_cuts(self, sparse: Inputs, dense: Inputs, samples: int) -> Tensor:
        count = len(self.outputs)
        pairs = zip(sparse[count:], dense[count:], self.scales, strict=True)
        return _average([normalised_error(s, d, scale, samples) for s, d, scale in pairs], samples, dense[0].device)

    def _loss(self, dense: Tensor) -> OutputLoss:
        """Chooses the measure of one output. What views say together is a distribution, not a mean of logits."""
        loss = OutputLoss.detect(dense)
        return replace(loss, kind="kl") if self.together and loss.kind == "logits" else loss

    def _target(self, feeds: NetworkValues, views: Callable[[Tensor], Iterator[Tensor]]) -> Inputs:
        """What the dense network returns, or what it returns for `views` of the images together."""
        with torch.no_grad():
            if not self.together:
                return tuple(self.module(*feeds))
            results = torch.stack([self.module(view)[0] for view in views(feeds[0])])
        if self.outputs[0].kind != "kl":
            return (results.mean(0),)
        return (results.float().log_softmax(-1).logsumexp(0) - math.log(len(results)),)

    def _keep(self, pairs: Iterable[StreamPair]) -> Iterator[Inputs | None]:
        """Yields the target of each batch, and None for those that would not fit beside the others."""
        left = math.inf if self.together else MOST_KEPT
        if self.custom is not None:  # it may change what it is given
            left = 0
        for dense_feeds, _ in pairs:
            target = self._target(dense_feeds, make_shifted_views) if left > 0 else None
            left -= sum(value.nbytes for value in target or ())
            yield tuple(map(_release, target)) if target is not None and left >= 0 else None

    def _cast(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: weight.to(self.module.get_parameter(name).dtype) for name, weight in weights.items()}

    def _call(self, weights: Mapping[str, Tensor], feeds: NetworkValues) -> Inputs:
        results: Inputs = functional_call(self.module, {**self.fixed, **weights}, feeds)
        return results


def _release(value: Tensor) -> Tensor:
    """Copies a value that is a part of a larger one, which is not kept with it."""
    return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value


def _average(terms: Sequence[Tensor], samples: int, device: torch.device) -> Tensor:
    return torch.stack(list(terms)).mean(0) if terms else torch.zeros(samples, device=device)
