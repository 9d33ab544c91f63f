"""Runs the graph stage by stage in two activation streams and accumulates Gram matrices.

The dense stream is the model as it came; the pruned stream carries the weights solved so far. Both resume from what
the last stage kept, so that every node runs once per stream and batch, however deep the network is.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.errors import InputError
from prox24_export.passes.calibrate.frontier import Frontier, InMemory, OnDisk
from prox24_export.passes.calibrate.schedule import Stage
from prox24_export.passes.graph.activations import View
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.experts import Expert
from prox24_export.passes.graph.protocol import Linear, TracedGraph, Use

ENTRIES_AT_ONCE = 1 << 20  # of a sum in float64
ObservedView = tuple[str, View, Expert | None]  # what layers share whose Gram matrix is the same


@dataclass(frozen=True)
class Batch:
    """Feeds of one call of the model.

    Attributes:
        part: `fit` or `choice`; see `prox24_export.data.samples.split`.
        feeds: Array by input name.
    """

    part: str
    feeds: Mapping[str, Array]


@dataclass(eq=False)
class Moments:
    """Sums over the tokens of one part of the data, not divided by their number.

    The matrices are the largest things a run holds, so they are added to in place.

    Attributes:
        gram: `XₛᵀXₛ` of the pruned stream, float64.
        cross: `X_dᵀXₛ` of the dense and the pruned stream, float64; `gram` itself where both streams are the same.
        dense: Diagonal of `X_dᵀX_d`, float64.
        tokens: Number of rows of `X`.
    """

    gram: Float[Tensor, "K K"]
    cross: Float[Tensor, "K K"]
    dense: Float[Tensor, " K"]
    tokens: int

    @classmethod
    def zeros(cls, columns: int) -> "Moments":
        """Of no token."""
        gram = torch.zeros(columns, columns, dtype=torch.float64)
        return cls(gram, gram, torch.zeros(columns, dtype=torch.float64), 0)

    def add(self, other: "Moments") -> None:
        """Takes in another set of tokens."""
        if self.cross is self.gram and other.cross is not other.gram:
            self.cross = self.gram.clone()
        if self.cross is not self.gram:
            self.cross += other.cross
        self.gram += other.gram
        self.dense += other.dense
        self.tokens += other.tokens

    def add_rows(
        self, x_dense: Float[Tensor, "tokens K"], x_pruned: Float[Tensor, "tokens K"], *, with_cross: bool
    ) -> bool:
        """Takes in rows of both streams, one product at a time; the same object twice where they do not differ.

        Returns:
            Whether the rows are finite. If not, the sums are spoilt.
        """
        differ = with_cross and x_dense is not x_pruned
        if differ and self.cross is self.gram:
            self.cross = self.gram.clone()
        product = _product(x_pruned, x_pruned)
        _accumulate(self.gram, product)
        if self.cross is not self.gram:
            if differ:
                del product
                product = _product(x_dense, x_pruned)
            _accumulate(self.cross, product)
        norms = x_dense.double().square().sum(0)
        self.dense += norms
        self.tokens += x_pruned.shape[0]
        return bool(torch.isfinite(norms).all() and torch.isfinite(x_pruned).all())


@dataclass(frozen=True)
class Observation:
    """What calibration learnt about a layer's input. Layers that read the same value share the moments.

    Attributes:
        fit: Moments of the data that masks and weights are fitted to.
        choice: Moments of the data that settings are chosen on; None where none is held back.
        residuals: By part: `(r_d − rₛ)ᵀXₛ` [N, K], float64, of the residual branch that is added to the layer's
            product: how far the branch has moved away from the dense network's, which this layer can make good.
            Empty where there is no such branch or it has not moved.
    """

    fit: Moments
    choice: Moments | None
    residuals: Mapping[str, Float[Tensor, "N K"]] = field(default_factory=dict)


@dataclass
class Calibration:
    """Walks the stages in order.

    Attributes:
        graph: What is run.
        batches: Calibration data; each is carried through all stages.
        offload: Folder for what the streams carry from stage to stage; None keeps it in memory.
        with_cross: Whether the cross Gram matrix is wanted; if not, `cross` of the moments is their `gram`.
        executions: Node executions so far, both streams together.
        one_pass: Node executions of one dense pass over the same batches.
    """

    graph: TracedGraph
    batches: Sequence[Batch]
    offload: Path | None = None
    with_cross: bool = True
    executions: int = 0
    _frontier: Frontier = field(init=False)
    _pending: dict[str, dict[str, Moments]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Both streams start as the feeds, sharing the arrays."""
        feeds = [batch.feeds for batch in self.batches]
        self._frontier = InMemory(feeds) if self.offload is None else OnDisk(feeds, self.offload)

    @property
    def one_pass(self) -> int:
        """Node executions of one dense pass over the data."""
        return len(self.graph.nodes) * len(self.batches)

    def advance(self, stage: Stage, weights: Mapping[str, Array], tick: Callable[[], None]) -> dict[str, Observation]:
        """Runs a stage; `weights` are those solved so far. Calls `tick` once a batch.

        Returns:
            For every layer of `stage.linears` by name: what is known of its input.

        Raises:
            InputError: An activation holds NaN or Inf; the message names the layer and the batch.
        """
        dense, pruned = StageRunner(self.graph, stage, {}), StageRunner(self.graph, stage, weights)
        views = _distinct_views(stage)
        sums: dict[ObservedView, dict[str, Moments]] = {view: {} for view in views}
        residuals: dict[str, dict[str, Tensor]] = {}
        for index, batch in enumerate(self.batches):
            streams = self._frontier.take(index)
            same = all(streams[0][name] is streams[1][name] for name in streams[1])
            untouched = same and not weights  # nothing is pruned yet: one run serves both streams
            x_dense = dense.run(streams[0])
            streams = x_dense, (x_dense if untouched else pruned.run(streams[1]))
            self.executions += len(stage.nodes) * (1 if untouched else 2)
            for observed, users in views.items():
                where = f"layer {users[0].name}, calibration batch {index}"
                _add(sums[observed], batch.part, observed, streams, where, with_cross=self.with_cross)
            for linear, use in stage.observed if self.with_cross else ():
                product = _residual_product(linear, use, *streams)
                if product is not None:
                    known = residuals.setdefault(linear.name, {})
                    known[batch.part] = known[batch.part].add_(product) if batch.part in known else product
            kept = ({name: value for name, value in stream.items() if name in stage.kept} for stream in streams)
            self._frontier.put(index, *kept)
            del streams, x_dense
            tick()
        return self._collect(stage, sums, residuals)

    def _collect(
        self,
        stage: Stage,
        sums: Mapping[ObservedView, dict[str, Moments]],
        residuals: Mapping[str, Mapping[str, Tensor]],
    ) -> dict[str, Observation]:
        for linear, use in stage.observed:
            seen = sums[use.activation, use.view, use.expert]
            known = self._pending.get(linear.name)
            if known is None:
                self._pending[linear.name] = seen if len(linear.uses) == 1 else copy.deepcopy(seen)
            else:
                for part, moments in seen.items():
                    known[part].add(moments)
        result = {}
        for linear in stage.linears:
            parts = self._pending.pop(linear.name)
            result[linear.name] = Observation(parts["fit"], parts.get("choice"), residuals.get(linear.name, {}))
        return result


class StageRunner:
    """Compiles a stage at its first batch, because only then the types of what it reads are known."""

    def __init__(self, graph: TracedGraph, stage: Stage, weights: Mapping[str, Array]) -> None:
        """Runs nothing yet; `weights` replaces stored ones by name."""
        self.graph, self._stage, self._weights = graph, stage, weights
        self._call: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None

    def run(self, values: dict[str, Array]) -> dict[str, Array]:
        """`values` and what the stage computes from them."""
        if not self._stage.nodes:
            return values
        if self._call is None:
            self._call = self.graph.compile(self._stage.nodes, values, self._stage.fetches, self._weights)
        return values | self._call(values)


def _distinct_views(stage: Stage) -> dict[ObservedView, list[Linear]]:
    views: dict[ObservedView, list[Linear]] = {}
    for linear, use in stage.observed:
        views.setdefault((use.activation, use.view, use.expert), []).append(linear)
    return views


def _residual_product(
    linear: Linear, use: Use, dense: Mapping[str, Array], pruned: Mapping[str, Array]
) -> Tensor | None:
    """`(r_d − rₛ)ᵀXₛ` where the branch is computed already, has moved, and has the shape of the layer's product."""
    if use.residual is None or len(linear.uses) > 1 or use.residual not in pruned:
        return None
    r_dense, r_pruned = dense[use.residual], pruned[use.residual]
    if r_dense is r_pruned or r_dense.shape != r_pruned.shape or r_dense.ndim < pruned[use.activation].ndim:
        return None
    moved = use.view.products(r_dense) - use.view.products(r_pruned)
    total, start = torch.zeros(linear.n, linear.k, dtype=torch.float64), 0
    for chunk in use.view.chunks(pruned[use.activation]):
        rows = moved[start : start + len(chunk)]
        if rows.shape != (len(chunk), linear.n):
            return None
        total += rows.to(chunk.dtype).T @ chunk  # a float32 product, a float64 sum
        start += len(chunk)
    return total if start == len(moved) and bool(torch.isfinite(total).all()) else None


def _add(
    sums: dict[str, Moments],
    part: str,
    observed: ObservedView,
    streams: tuple[Mapping[str, Array], Mapping[str, Array]],
    where: str,
    *,
    with_cross: bool,
) -> None:
    """Adds one batch of both streams to the sums of its part: float32 products over bounded chunks, float64 totals.

    Where the graph chose other tokens in the pruned stream than in the dense one (NonZero, TopK, ...), rows cannot be
    paired: the batch then counts as if the dense stream had seen the pruned one's input.
    """
    name, view, expert = observed
    dense, pruned = streams
    left, right = (dense[name], pruned[name]) if expert is None else expert.rows(name, dense, pruned)
    empty = True
    for x_dense, x_pruned in _pairs(view, left if left.shape == right.shape else right, right):
        if part not in sums:
            sums[part] = Moments.zeros(x_pruned.shape[1])
        if not sums[part].add_rows(x_dense, x_pruned, with_cross=with_cross):
            raise InputError(
                f"NaN or Inf in the activations of {where}: expected finite values. "
                "Check that calibration data and weights are finite and that the model does not overflow on them."
            )
        empty = False
    if empty:
        raise InputError(f"no activation reached {where}: expected at least one sample per batch.")


def _accumulate(total: Float[Tensor, "K K"], product: Float[Tensor, "K K"]) -> None:
    """`total += product`, few rows at a time: torch first makes a float64 copy of what it adds."""
    rows = max(1, ENTRIES_AT_ONCE // max(1, product.shape[1]))
    for first in range(0, len(total), rows):
        total[first : first + rows] += product[first : first + rows]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """`leftᵀ right` in the rows' own dtype; in float64 where finite rows leave that."""
    product = left.T @ right
    total = product.sum()  # NaN or Inf where any entry is, and sometimes where none is: then float64 costs time only
    return product if bool(torch.isfinite(total)) else left.double().T @ right.double()


def _pairs(view: View, dense: Array, pruned: Array) -> Iterator[tuple[Tensor, Tensor]]:
    if dense is pruned:
        for chunk in view.chunks(dense):
            yield chunk, chunk
        return
    yield from zip(view.chunks(dense), view.chunks(pruned), strict=True)
