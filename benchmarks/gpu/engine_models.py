"""Models to time engines on: the shapes of BERT-base and of Llama-7B with random weights, and KWT-1 where its data are.

Weights are pruned by magnitude: what is measured is time, and that an engine computes what the same model does in
float32.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from torch import Tensor, nn

from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.trace import replace_tensors, trace
from prox24_export.passes.graph.protocol import Feeds, Linear, TracedGraph
from prox24_export.solver.pattern import two_four_mask

SEQUENCE = 128  # tokens of a sample
KEYWORD_SAMPLE = (98, 40)  # frames and features of KWT-1


@dataclass(frozen=True)
class Subject:
    """A model to time.

    Attributes:
        name: In the tables.
        open: Reads or makes the dense model.
        shape: Of one sample.
        batches: Samples of one call, what matters most first.
        seconds: About how long one batch takes, both models and their preparation included.
    """

    name: str
    open: Callable[[], TracedGraph]
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    seconds: float


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
        for block in cast("list[nn.ModuleDict]", list(self.blocks)):
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
        for block in cast("list[nn.ModuleDict]", list(self.blocks)):
            split = (x.shape[0], x.shape[1], self.heads, self.width // self.heads)
            q, k, v = (block[name](x).reshape(split).transpose(1, 2) for name in "qkv")
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            x = block["first"](x + block["o"](attended.reshape(x.shape)))
            x = block["second"](x + block["down"](F.gelu(block["up"](x))))
        return x


def list_subjects() -> list[Subject]:
    """The models that can be timed here; makes none of them."""
    return [
        Subject(
            "BERT-base, 12 layers", lambda: trace_module(Bert(768, 3072, 12, 12)), (SEQUENCE, 768), (32, 8, 1, 128), 30
        ),
        Subject("Llama-7B, 1 layer", lambda: trace_module(Llama(4096, 11008, 32, 1)), (SEQUENCE, 4096), (16, 4, 1), 30),
        *_keyword_spotting(),
    ]


def _keyword_spotting() -> list[Subject]:
    """KWT-1, where `PROX24_TEST_DATA` names a folder that has it."""
    file = Path(os.environ.get("PROX24_TEST_DATA", "")) / "speech" / "kwt1_encoder.onnx"
    if not file.is_file():
        return []

    def open_model() -> TracedGraph:
        from prox24_export.passes.front_onnx.graph import OnnxGraph  # noqa: PLC0415 (only where there is an ONNX model)

        return OnnxGraph(file)

    return [Subject("KWT-1", open_model, KEYWORD_SAMPLE, (128, 1), 20)]


def trace_module(module: Bert | Llama) -> FxGraph:
    """A module of this file as a graph, the batch dynamic."""
    example = torch.zeros(2, SEQUENCE, module.width)
    return FxGraph(Path(type(module).__name__.lower()), trace(module, (example,), {}, type(module).__name__))


def prune_by_magnitude(dense: TracedGraph, folder: Path) -> tuple[TracedGraph, list[Linear]]:
    """The model with its layers pruned by magnitude, and these layers."""
    layers = FindLinears().call(graph=dense).linears
    weights = {}
    for layer in layers:
        matrix = dense.weight(layer)
        weights[layer.weight] = layer.to_stored(torch.where(two_four_mask(matrix), matrix, 0.0))
    if isinstance(dense, FxGraph):
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        return FxGraph(dense.path, replace_tensors(dense.program, tensors)), layers
    from prox24_export.passes.front_onnx.graph import OnnxGraph  # noqa: PLC0415 (only where there is an ONNX model)
    from prox24_export.passes.front_onnx.rewrite_weights import RewriteWeights  # noqa: PLC0415

    if not isinstance(dense, OnnxGraph):
        raise TypeError(f"expected a graph of either front end. Got {type(dense).__name__}.")
    return OnnxGraph(RewriteWeights().call(graph=dense, weights=weights, folder=folder).path), layers


def random_feeds(graph: TracedGraph, shape: tuple[int, ...], size: int) -> Feeds:
    """One batch of `size` samples of that shape: seeded normal numbers."""
    random = np.random.default_rng(0)
    return {graph.inputs[0].name: random.standard_normal((size, *shape), dtype=np.float32)}
