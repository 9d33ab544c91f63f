"""Runs the graph stage by stage in two activation streams and accumulates Gram matrices.

The dense stream is the model as it came; the pruned stream carries the weights solved so far. Both resume from what
the last stage kept, so that every node runs once per stream and batch, however deep the network is.
"""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prox24_export.errors import InputError
from prox24_export.passes.calibrate.moments import Moments, Observation
from prox24_export.passes.calibrate.schedule import Stage
from prox24_export.passes.calibrate.shards import cut_shards
from prox24_export.passes.calibrate.streams import Streams, ValuePair
from prox24_export.passes.calibrate.sums import ObservedView, StageSums
from prox24_export.passes.graph.activations import View
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, Use

Residuals = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class CalibratedStage:
    """What calibration learnt in one stage.

    Attributes:
        observations: What is known about the input of every layer of the stage, by the layer's name.
    """

    observations: dict[str, Observation]


@dataclass(frozen=True)
class Calibrate:
    """The pass that runs one stage in both streams, and its settings.

    Attributes:
        with_cross: Whether the cross Gram matrix is wanted. If not, `cross` of the moments is their `gram`.
        widest: The most columns of an input whose Gram matrix is wanted; of wider ones only the norms are summed. With
            None all are wanted.
    """

    with_cross: bool = True
    widest: int | None = None

    def call(
        self,
        *,
        streams: Streams,
        stage: Stage,
        weights: Mapping[str, Array],
        tick: Callable[[], None] = lambda: None,
    ) -> CalibratedStage:
        """Runs one stage in both streams, and leaves both streams behind it.

        Args:
            streams: The two streams. They are changed: afterwards they stand behind the stage.
            stage: The stage that comes next in the schedule.
            weights: The weights solved so far, in their stored shape and dtype, by name.
            tick: Called once for each batch.

        Raises:
            InputError: An activation holds NaN or Inf, or no activation reaches a layer; the message names the layer
                and the batch.
            ValueError: There is no batch.
        """
        self.requires(streams)
        totals, pairs = StageSums(), streams.advance(stage, weights, tick)
        for shard in cut_shards(streams.batches):
            totals.add(self.sum_up(streams, stage, itertools.islice(pairs, len(shard))))
        deque(pairs, maxlen=0)  # the last batch is left behind, too
        return CalibratedStage(collect_observations(streams.pending, stage, totals))

    def sum_up(self, streams: Streams, stage: Stage, pairs: Iterable[tuple[int, ValuePair]]) -> StageSums:
        """Sums up what some batches show of a stage.

        Args:
            streams: The two streams.
            stage: The stage that they stand at.
            pairs: What `streams.advance` yields for these batches.

        Raises:
            InputError: As `call`.
        """
        views = _group_by_view(stage)
        sums = StageSums({view: {} for view in views})
        for index, pair in pairs:
            part = streams.batches[index].part
            finite: dict[str, list[Tensor]] = {}
            for observed, users in views.items():
                where = f"layer {users[0].name}, calibration batch {index}"
                finite[where] = self._add(sums.moments[observed], part, observed, pair, where)
            if (place := _find_not_finite(list(finite.values()))) is not None:
                observed, users = list(views.items())[place]
                raise _blame(users[0], list(finite)[place], sums.moments[observed][part])
            if self.with_cross:
                _add_residuals(sums.residuals, part, stage, pair)
            del pair
        return sums

    def _add(
        self,
        sums: dict[str, Moments],
        part: str,
        observed: ObservedView,
        streams: tuple[Mapping[str, Array], Mapping[str, Array]],
        where: str,
    ) -> list[Tensor]:
        """Adds one batch of both streams to the sums of its part; returns whether its rows are finite.

        Products are taken in float32 over chunks of bounded size; their totals are float64.

        Where the graph chose other tokens in the pruned stream than in the dense one (NonZero, TopK, ...), rows cannot
        be paired: the batch then counts as if the dense stream had seen the pruned one's input.
        """
        name, view, expert = observed
        dense, pruned = streams
        left, right = (dense[name], pruned[name]) if expert is None else expert.rows(name, dense, pruned)
        finite = []
        for x_dense, x_pruned in _pair_chunks(view, left if left.shape == right.shape else right, right):
            if part not in sums:
                columns = x_pruned.shape[1]
                with_gram = self.widest is None or columns <= self.widest
                sums[part] = Moments.zeros(columns, with_gram=with_gram, device=x_pruned.device)
            finite.append(sums[part].add_rows(x_dense, x_pruned, with_cross=self.with_cross))
        if not finite:
            raise InputError(f"no activation reached {where}: expected at least one sample per batch.")
        return finite

    @staticmethod
    def requires(streams: Streams) -> None:
        """Expects at least one batch.

        Raises:
            ValueError: There is none.
        """
        if not streams.batches:
            raise ValueError("calibration needs at least one batch. Got none.")


def _find_not_finite(finite: Sequence[Sequence[Tensor]]) -> int | None:
    """Finds the first view of a batch whose rows are not finite; all that is known of them is read at once."""
    known = [(place, flag) for place, flags in enumerate(finite) for flag in flags]
    if not known or bool(torch.stack([flag for _, flag in known]).all()):
        return None
    return next(place for place, flag in known if not flag)


def _blame(linear: Linear, where: str, seen: Moments) -> InputError:
    """Makes the error for rows that are not finite: it says which network computes them."""
    said = f"NaN or Inf in the activations of {where}"
    way_out = f"leave the layer dense with --exclude {linear.name!r}"
    if bool(torch.isfinite(seen.dense).all()):
        return InputError(
            f"{said}, as the pruned network computes them: expected finite values, as in the dense one. Most often it "
            f"overflows where the dense one nearly does: {way_out}, or a layer before it."
        )
    return InputError(
        f"{said}, as the dense network computes them: expected finite values. Check that calibration data and weights "
        f"are finite and that the model does not overflow on them, or {way_out}."
    )


def collect_observations(
    pending: dict[str, dict[str, Moments]], stage: Stage, sums: StageSums
) -> dict[str, Observation]:
    """Collects the observations of the stage's layers by name, out of the sums over all batches.

    Args:
        pending: Moments of layers that have later uses; they wait there. It is changed.
        stage: The stage.
        sums: The sums, which must not be used afterwards.
    """
    for linear, use in stage.observed:
        seen = sums.moments[use.activation, use.view, use.expert]
        known = pending.get(linear.name)
        if known is None:
            pending[linear.name] = seen if len(linear.uses) == 1 else copy.deepcopy(seen)
        else:
            for part, moments in seen.items():
                known[part].add(moments)
    result = {}
    for linear in stage.linears:
        parts = pending.pop(linear.name)
        result[linear.name] = Observation(parts["fit"], parts.get("choice"), sums.residuals.get(linear.name, {}))
    return result


def _group_by_view(stage: Stage) -> dict[ObservedView, list[Linear]]:
    views: dict[ObservedView, list[Linear]] = {}
    for linear, use in stage.observed:
        views.setdefault((use.activation, use.view, use.expert), []).append(linear)
    return views


def _add_residuals(
    residuals: Residuals,
    part: str,
    stage: Stage,
    pair: tuple[Mapping[str, Array], Mapping[str, Array]],
) -> None:
    """Adds one batch to the residual products of the stage's layers, by layer and by part of the data."""
    for linear, use in stage.observed:
        product = _multiply_residual(linear, use, *pair)
        if product is not None:
            known = residuals.setdefault(linear.name, {})
            known[part] = known[part].add_(product) if part in known else product


def _multiply_residual(
    linear: Linear, use: Use, dense: Mapping[str, Array], pruned: Mapping[str, Array]
) -> Tensor | None:
    """Computes `(r_d − rₛ)ᵀXₛ` [N, K] in float64, how far the residual branch has moved, times the layer's input.

    None where the branch is not computed yet, has not moved, or has another shape than the layer's product.
    """
    if use.residual is None or len(linear.uses) > 1 or use.residual not in pruned:
        return None
    r_dense, r_pruned = dense[use.residual], pruned[use.residual]
    if r_dense is r_pruned or r_dense.shape != r_pruned.shape or r_dense.ndim < pruned[use.activation].ndim:
        return None
    moved = use.view.products(r_dense) - use.view.products(r_pruned)
    total, start = torch.zeros(linear.n, linear.k, dtype=torch.float64, device=moved.device), 0
    for chunk in use.view.chunks(pruned[use.activation]):
        rows = moved[start : start + len(chunk)]
        if rows.shape != (len(chunk), linear.n):
            return None
        total += rows.to(chunk.dtype).T @ chunk  # a float32 product, a float64 sum
        start += len(chunk)
    is_finite = torch.isfinite(total).all()  # a batch that overflows counts for nothing, and nobody waits to see it
    return total.masked_fill_(~is_finite, 0.0) if start == len(moved) else None


def _pair_chunks(view: View, dense: Array, pruned: Array) -> Iterator[tuple[Tensor, Tensor]]:
    if dense is pruned:
        for chunk in view.chunks(dense):
            yield chunk, chunk
        return
    yield from zip(view.chunks(dense), view.chunks(pruned), strict=True)
