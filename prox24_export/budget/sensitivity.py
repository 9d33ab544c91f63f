"""What the model's outputs gain where layers are left dense, measured on unlabelled samples; no file is written.

The pruned model runs with the weights of some layers restored, and its outputs are compared with the dense model's.
Later layers were solved for the inputs that earlier pruned ones gave, so a restored layer may help little or even do
harm. Hence nothing here is derived from a layer's own error.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prox24_export.engines.estimate import count_operations
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.graph.arrays import Array, as_array, as_tensor
from prox24_export.passes.graph.protocol import Feeds, Linear, Runner, TracedGraph
from prox24_export.passes.refine.loss import OutputLoss, count_samples
from prox24_export.results.budget import SensitivityReport, UnitSensitivity

DenseNames = frozenset[str]  # names of the stored weights that are left dense

MOST_UNITS = 128
MOST_REMEMBERED = 1 << 25  # entries of a model's outputs that are kept instead of being computed again


@dataclass(frozen=True)
class Unit:
    """Layers that are left dense together.

    Attributes:
        name: The name that the report gives it.
        linears: Its layers.
        stage: Index of the stage in which they are solved.
        share: Share of its layers in the floating-point operations of all layers.
    """

    name: str
    linears: tuple[Linear, ...]
    stage: int
    share: float

    @property
    def weights(self) -> DenseNames:
        """Names of the stored weights."""
        return frozenset(linear.weight for linear in self.linears)

    @property
    def parameters(self) -> int:
        """The number of entries of the weights."""
        return sum(linear.parameters for linear in self.linears)


def find_units(graph: TracedGraph, linears: Sequence[Linear], feeds: Feeds, most: int = MOST_UNITS) -> list[Unit]:
    """Makes every layer a unit, or the layers of each stage one unit where there are more than `most` layers.

    Args:
        graph: The dense model.
        linears: Its pruned layers.
        feeds: One batch, on which operations are counted.
        most: The most units that are worth passes over the samples of their own.
    """
    stages = [stage.linears for stage in schedule(graph, linears)]
    groups: list[tuple[int, tuple[Linear, ...]]] = [
        (place, (linear,)) for place, members in enumerate(stages) for linear in members
    ]
    if len(groups) > most:
        groups = [(place, members) for place, members in enumerate(stages) if members]
    by_name = count_operations(graph, linears, feeds)
    flops = [sum(by_name[layer.name] for layer in members) for _, members in groups]
    total = sum(flops) or 1.0
    return [
        Unit(_name_unit(members), tuple(members), place, count / total)
        for (place, members), count in zip(groups, flops, strict=True)
    ]


def _name_unit(members: Sequence[Linear]) -> str:
    return members[0].name if len(members) == 1 else f"{members[0].name} and {len(members) - 1} beside it"


def measure_sensitivity(
    distance: "OutputDistance", found: Sequence[Unit], errors: Mapping[str, float], tick: Callable[[], None]
) -> SensitivityReport:
    """Measures each unit in two passes over the samples: once with it alone dense, once with it alone pruned.

    Args:
        distance: Holds model, solved weights and samples.
        found: What `find_units` returned.
        errors: Relative error of each layer, by name.
        tick: Called once for each pass.
    """
    every = frozenset(name for unit in found for name in unit.weights)

    def loss(dense: AbstractSet[str]) -> float:
        tick()
        return distance.measure(dense)

    pruned = loss(frozenset())
    rows = tuple(
        UnitSensitivity(
            name=unit.name,
            layers=tuple(linear.name for linear in unit.linears),
            stage=unit.stage,
            parameters=unit.parameters,
            share=unit.share,
            relative_error=max(errors.get(linear.name, 0.0) for linear in unit.linears),
            restored=loss(unit.weights),
            alone=loss(every - unit.weights),
        )
        for unit in found
    )
    return SensitivityReport(distance.samples, distance.measures, pruned, rows)


class Restored(Mapping[str, Array]):
    """The solved weights without those that are left dense; a weight is read only when it is asked for."""

    def __init__(self, solved: Mapping[str, Array], dense: AbstractSet[str]) -> None:
        """Keeps both as they are; nothing is copied."""
        self._solved, self._dense = solved, dense

    def __getitem__(self, name: str) -> Array:
        """The solved weight of this name.

        Raises:
            KeyError: The weight is left dense, or was never solved.
        """
        if name in self._dense:
            raise KeyError(name)
        return self._solved[name]

    def __contains__(self, name: object) -> bool:
        """Whether the weight is replaced; no weight is read for it."""
        return name not in self._dense and name in self._solved

    def __iter__(self) -> Iterator[str]:
        """The names of the weights that are replaced."""
        return (name for name in self._solved if name not in self._dense)

    def __len__(self) -> int:
        """The number of weights that are replaced."""
        return sum(1 for _ in self)


def make_variant(graph: TracedGraph, weights: Mapping[str, Array]) -> Runner:
    """Makes a runner of the whole model with some weights replaced; `TracedGraph.runner` is the one with none replaced.

    The model is compiled at the first call, because the types of the feeds are known only then.
    """
    compiled: list[Callable[[Feeds], dict[str, Any]]] = []

    def run(feeds: Feeds) -> Sequence[Array]:
        if not compiled:
            computed = {name for node in graph.nodes for name in node.outputs}
            fetches = tuple(dict.fromkeys(name for name in graph.outputs if name in computed))
            compiled.append(graph.compile(graph.nodes, feeds, fetches, weights))
        results = compiled[0](feeds)
        if not results.keys() >= set(graph.outputs):  # outputs that no node computes are the same in every variant
            results = dict(zip(graph.outputs, graph.runner()(feeds), strict=True)) | results
        return [_read_array(results[name]) for name in graph.outputs]

    return run


def remember_outputs(model: Runner, batches: Sequence[Feeds]) -> Runner:
    """Makes a runner that keeps a model's outputs for these very batches instead of computing them again.

    At most `MOST_REMEMBERED` entries are kept; outputs beyond them are computed at each call.
    """
    mine, kept, room = {id(feeds) for feeds in batches}, dict[int, Sequence[Array]](), [MOST_REMEMBERED]

    def run(feeds: Feeds) -> Sequence[Array]:
        if id(feeds) in kept:
            return kept[id(feeds)]
        outputs = model(feeds)
        entries = sum(int(np.size(output)) for output in outputs)
        if id(feeds) in mine and entries <= room[0]:
            room[0] -= entries
            kept[id(feeds)] = outputs
        return outputs

    return run


def _read_array(value: Any) -> Any:
    """A tensor as a NumPy array, bfloat16 as float32; any other value as it is."""
    if not isinstance(value, Tensor):
        return value
    return as_array(value.float() if value.dtype == torch.bfloat16 else value)


@dataclass
class OutputDistance:
    """How far the outputs of variants are from the dense model's: `OutputLoss` as a mean over outputs and samples.

    Attributes:
        graph: The dense model.
        solved: Every pruned weight by name.
        batches: Feeds of unlabelled samples.
        samples: The number of samples in the batches.
    """

    graph: TracedGraph
    solved: Mapping[str, Array]
    batches: Sequence[Feeds]
    samples: int = field(init=False, default=0)
    _losses: Sequence[OutputLoss] = field(init=False)
    _dense: Runner = field(init=False)

    def __post_init__(self) -> None:
        """Runs the dense model once, since its outputs tell which measure fits them."""
        self._dense = remember_outputs(make_variant(self.graph, {}), self.batches)
        found: list[OutputLoss] = []
        scales = []
        for feeds in self.batches:
            tensors = [_read_tensor(output) for output in self._dense(feeds)]
            found = found or [OutputLoss.detect(tensor) for tensor in tensors]
            scales.append([loss.scaled(tensor).scale for loss, tensor in zip(found, tensors, strict=True)])
            self.samples += count_samples(tensors)
        means = [statistics.fmean(column) for column in zip(*scales, strict=True)]
        self._losses = [replace(loss, scale=scale) for loss, scale in zip(found, means, strict=True)]

    @property
    def measures(self) -> tuple[str, ...]:
        """How each output is measured; `none` for an output that does not hold floats."""
        return tuple(loss.kind for loss in self._losses)

    def measure(self, dense: AbstractSet[str]) -> float:
        """Measures the pruned model with these weights left dense; it costs one pass over the batches.

        Returns:
            The mean over samples; infinite where an output is not finite, or has another shape than the
            dense one's.
        """
        run = make_variant(self.graph, Restored(self.solved, dense))
        total, count = 0.0, 0
        for feeds in self.batches:
            wanted, got = self._dense(feeds), run(feeds)
            if any(np.shape(one) != np.shape(other) for one, other in zip(wanted, got, strict=True)):
                return float("inf")  # its size depends on the data
            pairs = [(_read_tensor(s), _read_tensor(d)) for s, d in zip(got, wanted, strict=True)]
            samples = count_samples([d for _, d in pairs])
            terms = [loss.of(s, d, samples) for loss, (s, d) in zip(self._losses, pairs, strict=True)]
            measured = [term for term, loss in zip(terms, self._losses, strict=True) if loss.kind != "none"]
            total += float(torch.stack(measured).mean(0).double().sum()) if measured else 0.0
            count += samples
        return total / count if count and np.isfinite(total) else float("inf" if count else "nan")


def _read_tensor(output: Any) -> Tensor:
    """An output as a tensor to compare; an empty tensor where it holds no numbers."""
    return as_tensor(output) if isinstance(output, np.ndarray) and output.dtype.kind in "fiub" else torch.zeros(0)
