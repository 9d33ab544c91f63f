"""Writes float32 ONNX files as INT8 files: QuantizeLinear and DequantizeLinear around every product that gains by it.

Quantisers are inserted here and not by `onnxruntime.quantization`: see `placement` for what an NVIDIA builder makes of
the places that it chooses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.external_data import open_model
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.tensors import has_external
from prox24_export.passes.graph.arrays import EXTERNAL_ABOVE
from prox24_export.passes.graph.protocol import Feeds, Linear
from prox24_export.passes.precision.quantised import is_quantised, verify_quantised
from prox24_export.passes.precision.written_files import (
    copy_model,
    count_stored_bytes,
    expect_other_file,
    save_model,
    write_whole,
)
from prox24_export.passes.quantise.check import verify_file, verify_outputs
from prox24_export.passes.quantise.choose import SiteKind, Trials
from prox24_export.passes.quantise.histogram import Histogram
from prox24_export.passes.quantise.observe import observe_magnitudes
from prox24_export.passes.quantise.outputs import compare_outputs, run_float, run_model
from prox24_export.passes.quantise.placement import Placement, PlacementSearch
from prox24_export.passes.quantise.prepare import prepare_copy
from prox24_export.passes.quantise.scales import SCALE_METHODS, ScaleMethod
from prox24_export.passes.verify_pattern import VerifiedUse

NOT_CHOSEN = (
    "INT8: no samples are held back to choose by, so ranges are those of the least squared error, and nothing is "
    "smoothed"
)


@dataclass(frozen=True)
class Quantised:
    """An INT8 file.

    Attributes:
        path: The file.
        kept_in_fp32: By name of the linear layer or product, why it stays in float32, in one sentence.
        float_outputs: By name of the quantised layer, why its result is not quantised.
        differences: By name of the float output, `‖int8 − float32‖ / ‖float32‖` over the held-back batches, or over
            the calibration batches where nothing is held back.
        verified: Every use of a pruned weight that was checked in the file.
        weight_bytes: Bytes that the quantised weights take, scales included.
        float_bytes: Bytes that they took in float32.
        chosen: What was chosen on the held-back batches, in one sentence; empty where nothing was.
        notes: What the user should know, one sentence each.
        converted: Whether anything changed. It is False where the model was quantised already and is copied.
    """

    path: Path
    kept_in_fp32: Mapping[str, str] = field(default_factory=dict)
    float_outputs: Mapping[str, str] = field(default_factory=dict)
    differences: Mapping[str, float] = field(default_factory=dict)
    verified: tuple[VerifiedUse, ...] = ()
    weight_bytes: int = 0
    float_bytes: int = 0
    chosen: str = ""
    notes: tuple[str, ...] = ()
    converted: bool = True


@dataclass(frozen=True)
class QuantiseModel:
    """The pass that writes an INT8 file, and its settings.

    Attributes:
        methods: How the scale of an activation may follow from its histogram.
        alphas: Strengths of smoothing that may be chosen beside none.
        keep: Globs on names of nodes that stay in float32 in any case.
        external_above: Size of the tensors in bytes above which they go to a file beside the model. They also go there
            where the source holds external data.
    """

    methods: tuple[ScaleMethod, ...] = SCALE_METHODS
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75)
    keep: tuple[str, ...] = ()
    external_above: int = EXTERNAL_ABOVE

    def call(
        self,
        *,
        source: Path,
        target: Path,
        feeds: Sequence[Feeds],
        held_back: Sequence[Feeds] = (),
        linears: Sequence[Linear] = (),
    ) -> Quantised:
        """Writes `source` in INT8 to `target`, which appears whole or not at all. `source` is never changed.

        A model that is quantised already is copied. Inputs and outputs keep their types, and so does everything that is
        no linear layer, residual addition or product of two quantised layers.

        Args:
            source: The float32 ONNX file.
            target: The file to write. Large tensors go to a file beside it, named `target` with `.data` behind it.
            feeds: Calibration batches, which histograms are made from.
            held_back: Batches on which scales and smoothing are chosen.
            linears: The pruned layers of `source`, which are verified in `target`.

        Raises:
            InputError: The model is unreadable, does not run on the feeds, or holds nothing that can be quantised; or
                there are no feeds.
            PatternError: The integers of a pruned weight are not 2:4.
            PrecisionError: What was written is not what was wanted; see `verify_file`.
            OSError: The target cannot be written.
        """
        self.requires(source, target)
        graph = OnnxGraph(source)
        with write_whole(target) as file:
            if is_quantised(graph):
                result = self._copied(graph, file, linears)
            else:
                result = self._quantised(graph, file, feeds, held_back, linears)
        return replace(result, path=target)

    @staticmethod
    def requires(source: Path, target: Path) -> None:
        """Expects the target to be another file than the source.

        Raises:
            InputError: Both are the same file.
        """
        expect_other_file(source, target)

    def _copied(self, graph: OnnxGraph, file: Path, linears: Sequence[Linear]) -> Quantised:
        copy_model(graph, file)
        verified = verify_quantised(OnnxGraph(file), [use.node for linear in linears for use in linear.uses])
        note = "the model is quantised (QuantizeLinear, DequantizeLinear) and keeps its own scales"
        return Quantised(file, verified=verified, notes=(note,), converted=False)

    def _quantised(
        self,
        graph: OnnxGraph,
        file: Path,
        feeds: Sequence[Feeds],
        held_back: Sequence[Feeds],
        linears: Sequence[Linear],
    ) -> Quantised:
        if not feeds:
            raise InputError(f"{graph.path} cannot be quantised without calibration samples. Give some.")
        proto, notes = prepare_copy(graph)
        source = OnnxGraph(graph.path, proto)
        places, histograms = self._place(source, feeds)
        judged = held_back or feeds
        wanted = run_float(graph, judged)
        judged, held_back = judged[: len(wanted)], held_back[: len(wanted)]
        trials = Trials(source, places, feeds, held_back, wanted, file.parent, _tell_kinds(source, places))
        chosen = trials.choose(histograms, self.methods, self.alphas)
        notes += [] if held_back else [NOT_CHOSEN]
        model = trials.build(chosen)
        external = count_stored_bytes(model) > self.external_above or has_external(graph.proto)
        save_model(model, file, external=external)
        final = OnnxGraph(file)
        verified = verify_file(graph, final, places, linears)
        got = run_model(file, graph.outputs, judged)
        verify_outputs(wanted, got)
        sizes = [weight.layout.shape for weight in places.weights.values()]
        return Quantised(
            file,
            places.kept,
            places.float_outputs,
            compare_outputs(wanted, got),
            verified,
            sum(n * k + 5 * n for n, k in sizes),
            sum(4 * n * k for n, k in sizes),
            chosen.sentence if held_back else "",
            tuple(notes),
        )

    @staticmethod
    def _expect_some(places: Placement, source: OnnxGraph) -> Placement:
        if not places.weights:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(places.kept.items())[:3]) or "it has none"
            raise InputError(f"no linear layer of {source.path} can be quantised ({reasons}). Use --precision fp16.")
        return places

    def _place(self, source: OnnxGraph, feeds: Sequence[Feeds]) -> tuple[Placement, Mapping[str, Histogram]]:
        """Places quantisers, and again without the values that turn out to hold an infinity."""
        model = open_model(source.proto, source.path)
        nodes = {str(node.name): node for node in model.graph}
        keep = {name: f"kept by request ({glob})" for glob in self.keep for name in nodes if fnmatchcase(name, glob)}
        place = PlacementSearch(nodes, source.operators(), source.constants, keep=keep)
        places = self._expect_some(place.find(), source)
        seen = observe_magnitudes(source, feeds, places.readers.keys()).histograms
        unsafe = {name: f"{name} holds an infinity or NaN" for name, found in seen.items() if not found.finite}
        if unsafe:
            places = PlacementSearch(nodes, source.operators(), source.constants, unsafe, keep).find()
        return self._expect_some(places, source), {name: seen[name] for name in places.readers}


def _tell_kinds(source: OnnxGraph, places: Placement) -> dict[str, SiteKind]:
    """What reads each activation: a residual addition counts before a product."""
    operators = {node.name: node.op for node in source.nodes}
    return {
        name: "residual" if any(operators.get(reader) == "Add" for reader, _ in readers) else "layer"
        for name, readers in places.readers.items()
    }
