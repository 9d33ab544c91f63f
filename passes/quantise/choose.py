"""Chooses scales and smoothing on held-back samples, by the outputs of the whole quantised model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import onnx
import onnx_ir as ir

from prox24_export.passes.front_onnx.external_data import open_model
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.passes.precision.written_files import count_stored_bytes, save_model
from prox24_export.passes.quantise.histogram import Histogram
from prox24_export.passes.quantise.insert import Integers, insert_quantisers
from prox24_export.passes.quantise.observe import observe_magnitudes
from prox24_export.passes.quantise.outputs import Outputs, compare_outputs, run_model
from prox24_export.passes.quantise.placement import Placement
from prox24_export.passes.quantise.round_together import round_together
from prox24_export.passes.quantise.scales import ScaleMethod, choose_scale
from prox24_export.passes.quantise.smooth import find_smooth_groups, smooth

SiteKind = Literal["layer", "residual"]
"""What reads an activation: a product, or an Add of two branches, whose sums reach further than what a norm makes."""
KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
PROTOBUF_LIMIT = 1_500_000_000  # bytes in one file; above it tensors go to a file beside it


@dataclass(frozen=True)
class Calibrated:
    """A float model with everything that its quantised file follows from.

    Attributes:
        proto: The model; external data stay in the files of the source.
        histograms: Magnitudes of every quantised activation, by name.
        methods: How scales are chosen, by what reads the activation.
        search: Whether scales of weights are searched, or are those of the largest magnitudes.
        alpha: How much was smoothed; 0 where nothing was.
        rounded: Weights that are rounded together, by name; the others are rounded to nearest.
    """

    proto: onnx.ModelProto
    histograms: Mapping[str, Histogram]
    methods: Mapping[SiteKind, ScaleMethod]
    search: bool = True
    alpha: float = 0.0
    rounded: Mapping[str, Integers] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What was chosen, as the user reads it."""
        ends = " and ".join(f"{self.methods[kind]} for what a {_READER[kind]} reads" for kind in KINDS)
        nearest = f"nearest, ranges by {'least squared error' if self.search else 'largest magnitude'}"
        weights = "together, by what their layers read" if self.rounded else nearest
        moved = f"smoothed with alpha = {self.alpha:g}" if self.alpha else "not smoothed"
        return f"ranges of activations: {ends}; weights rounded: {weights}; {moved}"


_READER: dict[SiteKind, str] = {"layer": "layer", "residual": "residual addition"}


@dataclass(frozen=True)
class Trials:
    """What candidates are made from and judged by.

    Attributes:
        source: The float model, with the nodes that `places` names.
        places: Where quantisers stand.
        feeds: Calibration batches.
        held_back: Batches that the choice is made on.
        wanted: The outputs of the float model on them.
        folder: For files that are loaded once.
        kinds: What reads each activation.
    """

    source: OnnxGraph
    places: Placement
    feeds: Sequence[Feeds]
    held_back: Sequence[Feeds]
    wanted: Outputs
    folder: Path
    kinds: Mapping[str, SiteKind] = field(default_factory=dict)

    def choose(
        self, histograms: Mapping[str, Histogram], methods: Sequence[ScaleMethod], alphas: Sequence[float]
    ) -> Calibrated:
        """Chooses among the methods, then smoothing, then how weights are rounded, by the error on held-back batches.

        First all activations take the same method, then each kind of reader its own. Where nothing is held back,
        weights are rounded together, which leaves less error of each layer.

        Args:
            histograms: Magnitudes of every quantised activation of the source.
            methods: Methods to choose from; the first one is taken where nothing is held back.
            alphas: Strengths of smoothing to try.
        """
        first = Calibrated(self.source.proto, histograms, dict.fromkeys(KINDS, methods[0]))
        if not self.held_back:
            return self._rounded(first)
        best = self._best([replace(first, methods=dict.fromkeys(KINDS, method)) for method in methods])
        for kind in KINDS if set(self.kinds.values()) > {"layer"} else ():
            others = [method for method in methods if method != best.methods[kind]]
            best = self._best([best, *(replace(best, methods={**best.methods, kind: method}) for method in others)])
        best = self._best([best, replace(best, search=False)])
        best = self._best([best, *self._smoothed(best, alphas)])
        return self._best([best, self._rounded(best)])

    def build(self, candidate: Calibrated) -> ir.Model:
        """Builds the quantised model of a candidate."""
        model = open_model(candidate.proto, self.source.path)
        insert_quantisers(model, self.places, self._find_scales(candidate), candidate.rounded, search=candidate.search)
        return model

    def _find_scales(self, candidate: Calibrated) -> dict[str, float]:
        return {
            name: choose_scale(seen, candidate.methods[self.kinds.get(name, "layer")])
            for name, seen in candidate.histograms.items()
        }

    def _rounded(self, candidate: Calibrated) -> Calibrated:
        """The candidate with its weights rounded together, for the activations as it quantises them."""
        graph = OnnxGraph(self.source.path, candidate.proto)
        scales = self._find_scales(candidate)
        return replace(candidate, rounded=round_together(graph, self.places, scales, self.feeds))

    def _best(self, candidates: Sequence[Calibrated]) -> Calibrated:
        """The candidate with the least error; the first of several."""
        return candidates[0] if len(candidates) == 1 else min(candidates, key=self._error)

    def _error(self, candidate: Calibrated) -> float:
        file = self.folder / "candidate.onnx"
        model = self.build(candidate)
        save_model(model, file, external=count_stored_bytes(model) > PROTOBUF_LIMIT)
        try:
            found = compare_outputs(self.wanted, run_model(file, self.source.outputs, self.held_back))
        finally:
            for path in (file, file.with_name(f"{file.name}.data")):
                path.unlink(missing_ok=True)
        return sum(found.values())

    def _smoothed(self, best: Calibrated, alphas: Sequence[float]) -> list[Calibrated]:
        model = open_model(self.source.proto, self.source.path)
        nodes = {str(node.name): node for node in model.graph}
        groups = find_smooth_groups(self.source, nodes, self.places)
        if not groups or not alphas:
            return []
        read = {group.activation for group in groups}
        largest = observe_magnitudes(self.source, self.feeds, frozenset(), read).channels
        made = []
        for alpha in alphas:
            graph = OnnxGraph(self.source.path, smooth(self.source, groups, largest, alpha))
            seen = observe_magnitudes(graph, self.feeds, self.places.readers.keys()).histograms
            made.append(replace(best, proto=graph.proto, histograms=seen, alpha=alpha))
        return made
