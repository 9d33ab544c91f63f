"""Engines on a CUDA GPU: dense against sparse for real and for large shapes, over batch sizes, outputs verified.

    python -m benchmarks.gpu [--write] [--quick]

TensorRT where it can be imported, torch.sparse always. KWT-1 where its data are (`PROX24_TEST_DATA`), a stack of the
shape of BERT-base and one layer of the shape of Llama-7B's. Weights are pruned by magnitude: what is measured is time,
and that each engine computes what the same model does in float32.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from models import DATA
from torch import Tensor, nn

from prox24_export.engines.diagnosis.pruned_layers import pruned_layers
from prox24_export.engines.estimate import estimate
from prox24_export.engines.timing import gpu_state
from prox24_export.engines.timing.gpu_watch import watching
from prox24_export.engines.timing.latency import Procedure
from prox24_export.engines.torch_sparse import measure as torch_sparse
from prox24_export.errors import Prox24Error
from prox24_export.passes.emit_engine import tensorrt
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.rewrite_weights import RewriteWeights
from prox24_export.passes.front_torch.emit_onnx import emit_onnx
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.trace import trace, with_tensors
from prox24_export.passes.graph.protocol import Feeds, Linear, TracedGraph
from prox24_export.results.engine import EngineName, EngineReport, Estimate, LatencyPoint
from prox24_export.solver.pattern import two_four_mask
from prox24_export.stages.engines import profile
from prox24_export.stages.lower import lower
from prox24_export.stages.prune import row_of

SEQUENCE = 128  # tokens of a sample
QUICK = Procedure(warm_up_ms=200, duration_ms=500)
Watch = Callable[[], gpu_state.GpuState]


@dataclass(frozen=True)
class Subject:
    """A model to time.

    Attributes:
        name: In the tables.
        open: Reads or makes the dense model.
        shape: Of one sample.
        batches: Samples of one call.
    """

    name: str
    open: Callable[[], TracedGraph]
    shape: tuple[int, ...]
    batches: tuple[int, ...]


class Llama(nn.Module):
    """Decoder layers: attention and a gated feed-forward net, both behind a root mean square norm; no positions."""

    def __init__(self, width: int, inner: int, heads: int, layers: int) -> None:
        """Random weights."""
        super().__init__()
        self.width, self.heads = width, heads
        names = {"q": width, "k": width, "v": width, "o": width, "gate": inner, "up": inner}
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    **{name: nn.Linear(width, size, bias=False) for name, size in names.items()},
                    "down": nn.Linear(inner, width, bias=False),
                    "before": nn.RMSNorm(width),
                    "between": nn.RMSNorm(width),
                }
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] → the same."""
        for block in self.blocks:
            y = block["before"](x)
            split = (x.shape[0], x.shape[1], self.heads, self.width // self.heads)
            q, k, v = (block[name](y).reshape(split).transpose(1, 2) for name in "qkv")
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
            x = x + block["o"](attended.reshape(x.shape))
            y = block["between"](x)
            x = x + block["down"](F.silu(block["gate"](y)) * block["up"](y))
        return x


class Bert(nn.Module):
    """Encoder layers: attention and a feed-forward net, with biases, each followed by a layer norm."""

    def __init__(self, width: int, inner: int, heads: int, layers: int) -> None:
        """Random weights."""
        super().__init__()
        self.width, self.heads = width, heads
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    **{name: nn.Linear(width, width) for name in "qkvo"},
                    "up": nn.Linear(width, inner),
                    "down": nn.Linear(inner, width),
                    "first": nn.LayerNorm(width),
                    "second": nn.LayerNorm(width),
                }
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] → the same."""
        for block in self.blocks:
            split = (x.shape[0], x.shape[1], self.heads, self.width // self.heads)
            q, k, v = (block[name](x).reshape(split).transpose(1, 2) for name in "qkv")
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            x = block["first"](x + block["o"](attended.reshape(x.shape)))
            x = block["second"](x + block["down"](F.gelu(block["up"](x))))
        return x


def subjects() -> Iterator[Subject]:
    """What is there."""
    kwt = DATA / "speech" / "kwt1_encoder.onnx"
    if kwt.is_file():
        yield Subject("KWT-1", lambda: OnnxGraph(kwt), _sample_shape(kwt), (1, 16, 128, 512))
    else:
        print(f"skipped KWT-1: {kwt} is not there (set PROX24_TEST_DATA)", file=sys.stderr)
    yield Subject("BERT-base, 12 layers", lambda: traced(Bert(768, 3072, 12, 12)), (SEQUENCE, 768), (1, 8, 32, 128))
    yield Subject("Llama-7B, 1 layer", lambda: traced(Llama(4096, 11008, 32, 1)), (SEQUENCE, 4096), (1, 4, 16))


def traced(module: nn.Module) -> FxGraph:
    """A module of these as a graph, the batch dynamic."""
    width = int(module.width)
    example = torch.zeros(2, SEQUENCE, width)
    return FxGraph(Path(type(module).__name__.lower()), trace(module, (example,), {}, type(module).__name__))


def pruned(dense: TracedGraph, folder: Path) -> tuple[TracedGraph, list[Linear]]:
    """The model with its layers pruned by magnitude, and these layers."""
    layers = [layer for layer in FindLinears().call(dense) if isinstance(layer, Linear)]
    weights = {}
    for layer in layers:
        matrix = dense.weight(layer)
        weights[layer.weight] = dense.rounded(layer, torch.where(two_four_mask(matrix), matrix, 0.0))
    if isinstance(dense, OnnxGraph):
        return OnnxGraph(RewriteWeights().call(dense, weights, folder)), layers
    if not isinstance(dense, FxGraph):
        raise TypeError(type(dense))
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    return FxGraph(dense.path, with_tensors(dense.program, tensors)), layers


def feeds(graph: TracedGraph, subject: Subject, size: int) -> Feeds:
    """Seeded normal numbers."""
    random = np.random.default_rng(0)
    return {graph.inputs[0].name: random.standard_normal((size, *subject.shape), dtype=np.float32)}


def as_onnx(graph: TracedGraph, file: Path) -> Path:
    """The model's ONNX file, written where it has none."""
    if isinstance(graph, OnnxGraph):
        return graph.path
    if not isinstance(graph, FxGraph):
        raise TypeError(type(graph))
    file.parent.mkdir(parents=True, exist_ok=True)
    emit_onnx(graph.program, file)
    return file


@dataclass(frozen=True)
class Case:
    """One model with everything that an engine needs to be timed on it."""

    dense: TracedGraph
    sparse: TracedGraph
    batches: Sequence[Feeds]
    precision: Literal["fp16", "bf16"]
    folder: Path
    procedure: Procedure
    watch: Watch | None


def torch_engine(case: Case) -> EngineReport:
    """torch.sparse, end to end and by shape."""
    return torch_sparse.bench(
        case.dense,
        case.sparse,
        case.batches,
        precision=case.precision,
        procedure=case.procedure,
        watch=case.watch,
    )


def tensorrt_engine(case: Case) -> EngineReport:
    """TensorRT: three engines for all batches, built, diagnosed and timed."""
    from prox24_export.engines.tensorrt import measure as tensorrt_bench  # noqa: PLC0415 (TensorRT only)
    from prox24_export.passes.emit_engine.build import BuildSettings  # noqa: PLC0415

    tensorrt.require()
    dense = OnnxGraph(as_onnx(case.dense, case.folder / "dense" / "model.onnx"))
    sparse = OnnxGraph(as_onnx(case.sparse, case.folder / "pruned" / "model.onnx"))
    batches = [{dense.inputs[0].name: next(iter(batch.values()))} for batch in case.batches]
    found = [layer for layer in FindLinears().call(sparse) if isinstance(layer, Linear)]
    rows = [row_of(layer, sparse.parameters) for layer in found]
    names = [layer.weight for layer in found]
    files = lower(dense.path, sparse.path, names, case.folder, precision=case.precision, feeds=batches[:1])
    layers = pruned_layers(rows, files.layers, case.precision)
    settings = BuildSettings(profile=profile(dense, {}, batches), precision=case.precision)
    pair = tensorrt_bench.Pair(files.dense, files.sparse, (dense, sparse), layers)
    return tensorrt_bench.bench(pair, batches, case.folder, settings, procedure=case.procedure, watch=case.watch)


ENGINES: dict[EngineName, Callable[[Case], EngineReport]] = {"torch": torch_engine, "tensorrt": tensorrt_engine}


def run(
    subject: Subject, precision: Literal["fp16", "bf16"], how: Procedure
) -> Iterator[tuple[EngineReport, Estimate]]:
    """Every engine on one model; where one is not here or fails, its report says why."""
    with tempfile.TemporaryDirectory() as work, watching(gpu_state.visible()) as (watch, note):
        if note:
            print(note, file=sys.stderr)
        dense = subject.open()
        sparse, layers = pruned(dense, Path(work))
        batches = [feeds(dense, subject, size) for size in subject.batches]
        expected = estimate(sparse, FindLinears().call(sparse), {layer.name for layer in layers}, batches[0])
        case = Case(dense, sparse, batches, precision, Path(work), how, watch)
        for name, engine in ENGINES.items():
            try:
                yield engine(case), expected
            except Prox24Error as error:
                print(f"{subject.name}, {name}: {error}", file=sys.stderr)
                yield EngineReport(name, precision=precision, not_measured=str(error)), expected


def measured(*, quick: bool, precision: Literal["fp16", "bf16"] = "fp16") -> tuple[list[dict[str, Any]], str]:
    """Rows for JSON, and the Markdown."""
    how = QUICK if quick else Procedure()
    rows: list[dict[str, Any]] = []
    sections = []
    for subject in subjects():
        chosen = replace(subject, batches=subject.batches[:2]) if quick else subject
        for report, expected in run(chosen, precision, how):
            rows.append({"model": subject.name, "engine": asdict(report), "estimate": asdict(expected)})
            sections.append(section(subject.name, report, expected))
    return rows, "\n".join(sections)


def section(name: str, report: EngineReport, expected: Estimate) -> str:
    """One model on one engine, as Markdown. Losses stand in it like gains."""
    title = {"torch": "torch.sparse (not TensorRT)", "tensorrt": "TensorRT"}[report.engine]
    lines = [f"### {name}, {title} {report.version}, {report.precision}".rstrip(), ""]
    lines.append(
        f"{100 * expected.sparse_share:.0f} % of the linear layers' operations are in pruned layers; *estimate*: at "
        f"most {expected.bound:.2f} times as fast."
    )
    if report.not_measured:
        return "\n".join([*lines, "", f"Not measured: {report.not_measured}", ""])
    lines += ["", "| batch | dense, ms | sparse, ms | speed-up | 95 % interval | by the flag | verdict |"]
    lines += ["|---|---|---|---|---|---|---|", *map(_row, report.latency), ""]
    if report.layer_times:
        lines += ["| one product | dense, ms | sparse, ms | speed-up |", "|---|---|---|---|"]
        for entry in report.layer_times:
            if entry.dense_ms is not None and entry.sparse_ms is not None:
                times = f"{entry.dense_ms:.4f} | {entry.sparse_ms:.4f} | {entry.dense_ms / entry.sparse_ms:.2f}"
                lines.append(f"| {entry.name} | {times} |")
        lines.append("")
    lines += [f"- {warning}" for warning in dict.fromkeys(text for point in report.latency for text in point.warnings)]
    return "\n".join([*lines, ""])


def _row(point: LatencyPoint) -> str:
    ratio = point.speedup
    verdict = ratio.verdict if point.valid else f"INVALID: {'; '.join(point.reasons)}"
    flag = f"{point.flag_speedup.value:.3f}" if point.flag_speedup else ""
    interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    medians = f"{point.dense.median:.4f} | {point.sparse.median:.4f}"
    return f"| {point.batch} | {medians} | {ratio.value:.3f} | {interval} | {flag} | {verdict} |"


def _sample_shape(file: Path) -> tuple[int, ...]:
    shape = OnnxGraph(file).inputs[0].shape or ()
    return tuple(size for size in shape[1:] if isinstance(size, int))
