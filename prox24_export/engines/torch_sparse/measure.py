"""The torch engine: the traced graph with 2:4 weights in the format of `torch.sparse`, against the same graph, dense.

It is for machines with a CUDA GPU and without TensorRT. Its figures say nothing of TensorRT: both models run with
torch's kernels, layer by layer, in mixed precision (`torch.autocast`), and the pruned products with cuSPARSELt.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from torch import Tensor

from prox24_export.engines.estimate import estimate
from prox24_export.engines.timing.agreement import TOLERANCE
from prox24_export.engines.timing.gpu_state import GpuState
from prox24_export.engines.timing.latency import Procedure, Reference, measure_latency
from prox24_export.engines.torch_sparse.rewrite import Rewritten, rewrite
from prox24_export.engines.torch_sparse.timed import TorchTimed, capture_all
from prox24_export.errors import InputError, UnavailableError
from prox24_export.facts import machine
from prox24_export.passes.emit_engine.tensorrt import SPARSE_SINCE, Availability
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.activations import Patches
from prox24_export.passes.graph.arrays import as_tensor
from prox24_export.passes.graph.protocol import Feeds, Linear, Skipped, TracedGraph
from prox24_export.passes.refine.differentiable import make_differentiable
from prox24_export.results.engine import EngineReport, LatencyPoint, LayerDiagnosis, LayerTime, ShapeShare
from prox24_export.solver.pattern import count_violations, positive_zeros

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
NOT_TENSORRT = (
    "measured with PyTorch (torch.sparse), not with TensorRT, which fuses more and chooses its kernels by timing them"
)
NOTHING_FITS = "no layer is 2:4 and of a shape that torch.sparse computes: nothing was timed. See the layers' reasons."
AMPERE_ONLY = 8  # major compute capability of the GPUs that torch's CUTLASS kernels are for


@dataclass(frozen=True)
class Backend:
    """What computes products with 2:4 weights.

    Attributes:
        name: The name of the backend in the report.
        convert: Turns a contiguous 2:4 weight [N, K] into what `torch.nn.functional.linear` reads.
        rows: The number that N must be a multiple of.
        columns: The number that K must be a multiple of.
        precisions: The precisions in which the backend computes.
    """

    name: str
    convert: Callable[[Tensor], Any]
    rows: int
    columns: int
    precisions: tuple[str, ...] = ("fp16", "bf16")


def availability() -> Availability:
    """Whether this engine can run here; raises nothing."""
    version = torch.__version__
    if torch.version.cuda is None:
        return Availability(
            False,
            version,
            reason=f"torch {version} is built without CUDA.",
            remedy="Install torch with CUDA, from the index that torch's site names.",
        )
    if not torch.cuda.is_available():
        return Availability(
            False,
            version,
            reason="torch sees no CUDA GPU.",
            remedy="A machine with an NVIDIA GPU is needed; where there is one, see nvidia-smi.",
        )
    device, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if capability < SPARSE_SINCE:
        number = ".".join(map(str, capability))
        reason = f"{device} has compute capability {number} and no sparse matrix instructions."
        return Availability(False, version, device, reason=reason, remedy="They are there from 8.0 (Ampere) on.")
    if not torch.backends.cusparselt.is_available() and capability[0] != AMPERE_ONLY:
        return Availability(
            False,
            version,
            device,
            sparse=True,
            reason=f"this build of torch {version} has no cuSPARSELt, which {device} needs.",
            remedy="Install torch's official CUDA build, which has it.",
        )
    return Availability(True, version, device, sparse=True)


def require_torch_sparse() -> Availability:
    """Returns the availability of this engine where it can run here.

    Raises:
        UnavailableError: The engine cannot run here; the message says why and what to do.
    """
    found = availability()
    if not found.available:
        raise UnavailableError(f"--engine torch cannot be used here: {found.reason} {found.remedy}")
    return found


def find_backend() -> Backend:
    """Finds the backend: cuSPARSELt, or CUTLASS where this build of torch lacks it, with the sizes torch asks for."""
    if torch.backends.cusparselt.is_available():
        return Backend("cuSPARSELt", partial(_compress, torch.sparse.to_sparse_semi_structured), 16, 16)
    cutlass = torch.sparse.SparseSemiStructuredTensorCUTLASS.from_dense
    return Backend("CUTLASS", partial(_compress, cutlass), 32, 64)


def explain_refusal(layer: Linear, weight: Tensor, kernels: Backend) -> str:
    """Explains why a layer stays dense; empty where it can run sparse.

    The kernels do not check the pattern, and would drop entries without a word, so it is checked here.

    Args:
        layer: The layer.
        weight: The layer's weight [N, K].
        kernels: What would compute the product.
    """
    if any(isinstance(use.view, Patches) for use in layer.uses):
        return "convolution: torch.sparse has products of matrices only"
    if any(use.expert is not None for use in layer.uses):
        return "one of several experts: torch.sparse has no grouped product"
    violations = count_violations(weight)
    if violations:
        return f"not 2:4: {violations} of {weight.numel() // 4} groups have more than two non-zeros"
    if layer.n % kernels.rows or layer.k % kernels.columns:
        return (
            f"N = {layer.n}, K = {layer.k}: {kernels.name} needs N % {kernels.rows} = 0 and K % {kernels.columns} = 0"
        )
    return ""


def bench(
    dense: TracedGraph,
    sparse: TracedGraph,
    batches: Sequence[Feeds],
    *,
    precision: str = "fp16",
    procedure: Procedure | None = None,
    watch: Callable[[], GpuState] | None = None,
    kernels: Backend | None = None,
    device: torch.device | None = None,
) -> EngineReport:
    """Times both models in turns on every batch, and one product of each shape.

    Args:
        dense: The dense model.
        sparse: The same model with pruned weights.
        batches: The inputs by name of each batch, which gives one latency point.
        precision: The precision, `fp16` or `bf16`.
        procedure: How long and how often to measure; the defaults where None.
        watch: Returns the GPU's state; None where it cannot be read.
        kernels: What computes sparse products; where None, it is what this machine has.
        device: The device to run on; the current CUDA device where None.

    Raises:
        UnavailableError: The engine cannot run here.
        InputError: The kernels do not compute in this precision, there is no batch, or the models differ in more than
            their weights.
        NotDifferentiableError: torch cannot run an operator of the model.
        DivergenceError: torch computes something else than the model's own runtime.
    """
    known = require_torch_sparse() if kernels is None else None
    kernels, device = kernels or find_backend(), device or torch.device("cuda")
    if precision not in kernels.precisions:
        raise InputError(
            f"precision {precision}: {kernels.name} computes 2:4 products in {' and '.join(kernels.precisions)}. "
            "Choose one of them with --precision."
        )
    if not batches:
        raise InputError("nothing to time: expected at least one batch of inputs, got none.")
    found = FindLinears().call(graph=sparse).layers
    layers = [layer for layer in found if isinstance(layer, Linear)]
    weights = {layer: positive_zeros(sparse.weight(layer)) for layer in layers}
    reasons = {layer.name: explain_refusal(layer, weight, kernels) for layer, weight in weights.items()}
    fitting = {layer: weight for layer, weight in weights.items() if not reasons[layer.name]}
    setup = _Setup(dense, sparse, precision, kernels, device, procedure or Procedure(), watch)
    modules = setup.modules(fitting, batches[0]) if fitting else None
    if modules:
        reasons |= modules.sparse.reasons
    runs = {layer: weight for layer, weight in fitting.items() if not reasons[layer.name]}
    return EngineReport(
        engine="torch",
        version=torch.__version__,
        precision=precision,
        device=known.device if known else str(device),
        not_measured="" if runs else NOTHING_FITS,
        layers=tuple(_diagnose_layer(layer, weights[layer], reasons[layer.name], kernels) for layer in layers),
        latency=tuple(setup.point(modules, feeds) for feeds in batches) if modules and runs else (),
        layer_times=setup.layer_times(found, runs, batches[0]) if runs else (),
    )


@dataclass(frozen=True)
class _Modules:
    """The three rewritten models."""

    dense: Rewritten
    sparse: Rewritten
    flag_off: Rewritten  # the sparse weights, multiplied by dense kernels


@dataclass(frozen=True)
class _Setup:
    """Everything that stays the same over batches and layers."""

    dense: TracedGraph
    sparse: TracedGraph
    precision: str
    kernels: Backend
    device: torch.device
    procedure: Procedure
    watch: Callable[[], GpuState] | None

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    def modules(self, fitting: Mapping[Linear, Tensor], feeds: Feeds) -> _Modules:
        """Rewrites the three models alike, so that they differ in nothing but weights and kernels."""
        rewritten = partial(rewrite, device=self.device, dtype=self.dtype)
        before = {layer: _read_same_weight(self.dense, layer) for layer in fitting}
        source = make_differentiable(self.dense, feeds)
        dense = rewritten(self.dense, source, before, _return_unchanged)
        source = make_differentiable(self.sparse, feeds)
        sparse = rewritten(self.sparse, source, fitting, self.kernels.convert)
        off = rewritten(self.sparse, source, fitting, _return_unchanged)
        machine.return_free_memory()
        return _Modules(dense, sparse, off)

    def point(self, modules: _Modules, feeds: Feeds) -> LatencyPoint:
        """Times all three models on one batch."""
        inputs = [self._place(as_tensor(feeds[entry.name])) for entry in self.sparse.inputs]
        names = self.sparse.outputs
        models = [
            TorchTimed(name, self._run(rewritten.module, inputs), names, self.device)
            for name, rewritten in (
                ("dense", modules.dense),
                ("sparse", modules.sparse),
                ("sparse, dense kernels", modules.flag_off),
            )
        ]
        try:
            notes = capture_all(models, self.device)
            return measure_latency(
                models[0],
                models[1],
                models[2],
                {name: tuple(array.shape) for name, array in feeds.items()},
                reference=Reference.of(self.dense, self.sparse, feeds, self.precision),
                procedure=self.procedure,
                watch=self.watch,
                warnings=(NOT_TENSORRT, *notes),
            )
        finally:
            for model in models:
                model.close()

    def layer_times(
        self, found: Sequence[Linear | Skipped], runs: Mapping[Linear, Tensor], feeds: Feeds
    ) -> tuple[LayerTime, ...]:
        """Times one product of each shape, dense against sparse, on random activations."""
        by_shape = {(layer.k, layer.n): weight for layer, weight in runs.items()}
        shapes = estimate(self.sparse, found, {layer.name for layer in runs}, feeds).shapes
        return tuple(self._layer_time(shape, by_shape[shape.k, shape.n]) for shape in shapes if shape.sparse)

    def _layer_time(self, shape: ShapeShare, weight: Tensor) -> LayerTime:
        x = torch.randn(shape.tokens, shape.k, generator=torch.Generator().manual_seed(0))
        wanted = {"y": (x @ weight.float().T).numpy()}
        x, dense = x.to(self.device, self.dtype), weight.to(self.device, self.dtype).contiguous()
        compressed = self.kernels.convert(dense)
        models = [
            TorchTimed("dense", lambda: (F.linear(x, dense),), ("y",), self.device),
            TorchTimed("sparse", lambda: (F.linear(x, compressed),), ("y",), self.device),
        ]
        try:
            capture_all(models, self.device)
            point = measure_latency(
                models[0],
                models[1],
                None,
                {"x": tuple(x.shape)},
                reference=Reference(wanted, wanted, TOLERANCE[self.precision]),
                procedure=replace(self.procedure, duration_ms=self.procedure.duration_ms / 10),
            )
        finally:
            for model in models:
                model.close()
        doubt = "" if point.valid else f"; INVALID: {'; '.join(point.reasons)}"
        name = f"K = {shape.k}, N = {shape.n}, {shape.tokens} tokens, {shape.sparse} layers{doubt}"
        return LayerTime(name, point.dense.mean, point.sparse.mean)

    def _place(self, value: Tensor) -> Tensor:
        """Copies an input to the device; floats become of the precision of the weights."""
        return value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)

    def _run(self, module: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
        def run() -> Sequence[Tensor]:
            narrow = self.dtype != torch.float32
            # No cache: a cast weight would be kept from outside a CUDA graph, and freed under it.
            mixed = torch.autocast(self.device.type, self.dtype, cache_enabled=False) if narrow else nullcontext()
            with torch.no_grad(), mixed:
                return module(*inputs)

        return run


def _read_same_weight(graph: TracedGraph, layer: Linear) -> Tensor:
    """Reads a layer's weight in the other model.

    Raises:
        InputError: The other model has no weight of that name and shape.
    """
    try:
        stored = graph.stored(layer.weight)
    except KeyError:
        stored = None
    if stored is None or stored.shape != layer.layout.stored:
        state = "there is none" if stored is None else f"its shape is {list(stored.shape)}"
        raise InputError(
            f"dense and sparse model must be the same but for the values of their weights: weight {layer.weight} has "
            f"shape {list(layer.layout.stored)} in the sparse one, but in {graph.path} {state}."
        )
    return graph.weight(layer)


def _diagnose_layer(layer: Linear, weight: Tensor, reason: str, kernels: Backend) -> LayerDiagnosis:
    """Diagnoses a layer. No builder chooses here: a layer that is eligible runs sparse."""
    pattern = count_violations(weight) == 0
    return LayerDiagnosis(
        name=layer.name,
        pattern=pattern,
        eligible=not reason,
        chosen=not reason,
        tactic=f"torch.sparse ({kernels.name})" if not reason else "",
        reason=reason,
    )


def _compress(convert: Callable[[Tensor], Any], weight: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its interface a prototype, once
        return convert(weight)


def _return_unchanged(weight: Tensor) -> Tensor:
    return weight
