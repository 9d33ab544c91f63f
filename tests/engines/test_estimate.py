"""The estimate: operations counted by hand, tokens compared with what calibration sees, Amdahl's bound."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prox24_export.data.batches import join_samples
from prox24_export.data.random_samples import draw_random
from prox24_export.engines.estimate import apply_amdahl, estimate
from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import Batch, Streams
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.trace import trace
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear
from prox24_export.results.engine import Estimate, ShapeShare
from tests.graphs import found, linears, model, normal, opened, pruned


def of(text: str, weights: dict[str, Array], feeds: dict[str, Array], folder: Path, **sparse: object) -> Estimate:
    graph = opened(model(text, weights), folder)
    names = {layer.name for layer in linears(graph)} if not sparse else set(sparse)
    return estimate(graph, found(graph), names, feeds)


def test_rows_are_counted_over_all_axes_but_the_last(tmp_path: Path) -> None:
    text = "g (float[b,5,8] x) => (float[b,5,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    told = of(text, {"w": normal(8, 16), "v": normal(16, 4)}, {"x": normal(3, 5, 8)}, tmp_path)
    assert told.flops == 2 * 15 * (8 * 16 + 16 * 4)
    assert told.sparse_share == 1
    assert told.bound == 2
    assert told.not_counted == ()
    assert told.shapes == (
        ShapeShare(8, 16, 15, 1, 1, 3840.0, 3840 / told.flops),
        ShapeShare(16, 4, 15, 1, 1, 1920.0, 1920 / told.flops),
    )


def test_a_weight_on_the_left_and_one_used_twice(tmp_path: Path) -> None:
    text = "g (float[b,8,5] x) => (float[b,8,5] y) { h = MatMul(w, x) r = Relu(h) y = MatMul(w, r) }"
    told = of(text, {"w": normal(8, 8)}, {"x": normal(3, 8, 5)}, tmp_path)
    assert told.shapes == (ShapeShare(8, 8, 15, 2, 2, 2 * 2 * 15 * 64.0, 1.0),)


CONVOLUTIONS = {
    "strided, padded": ("strides=[2,1], pads=[1,0,1,2]", (8, 9)),
    "dilated": ("dilations=[2,2]", (9, 11)),
    "the same size": ('auto_pad="SAME_UPPER", strides=[2,2]', (9, 7)),
    "no padding": ('auto_pad="VALID"', (7, 7)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_tokens_of_a_convolution_are_its_output_positions_as_calibration_counts_them(name: str, tmp_path: Path) -> None:
    attributes, size = CONVOLUTIONS[name]
    text = f"g (float[b,4,h,w] x) => (float[b,6,p,q] y) {{ y = Conv<{attributes}>(x, c) }}"
    graph = opened(model(text, {"c": normal(6, 4, 3, 3)}), tmp_path)
    feeds = {"x": normal(2, 4, *size)}
    (shape,) = estimate(graph, found(graph), set(), feeds).shapes
    (stage,) = schedule(graph, linears(graph))
    calibrated = Calibrate().call(streams=Streams(graph, [Batch("fit", feeds)]), stage=stage, weights={})
    (seen,) = calibrated.observations.values()
    assert shape.tokens == seen.fit.tokens
    assert (shape.k, shape.n, shape.sparse) == (36, 6, 0)


def test_skipped_layers_of_known_shape_count_as_dense(tmp_path: Path) -> None:
    """An odd one and a grouped convolution; a product of two activations is no linear layer, which is told."""
    text = """g (float[b,8,4,4] x) => (float[b,8] y, float[b,b] z) {
        h = Conv<group=2>(x, c) s = GlobalAveragePool(h) f = Flatten(s)
        m = MatMul(f, w) o = MatMul(m, u) y = MatMul(o, v) t = Transpose(y) z = MatMul(y, t) }"""
    weights = {"c": normal(8, 4, 1, 1), "w": normal(8, 8), "u": normal(8, 6), "v": normal(6, 8)}
    told = of(text, weights, {"x": normal(3, 8, 4, 4)}, tmp_path)
    assert {(entry.k, entry.n, entry.tokens): entry.sparse for entry in told.shapes} == {
        (4, 8, 48): 0,
        (8, 8, 3): 1,
        (8, 6, 3): 1,
        (6, 8, 3): 0,
    }
    total = 2 * (48 * 32 + 3 * 64 + 3 * 48 + 3 * 48)
    assert told.flops == total
    assert told.sparse_share == pytest.approx(2 * 3 * (64 + 48) / total)
    assert told.bound == pytest.approx(1 / (1 - told.sparse_share / 2))
    assert (told.not_counted, told.of_activations) == ((), 1)


def test_a_model_without_linear_layers_gains_nothing(tmp_path: Path) -> None:
    told = of("g (float[n] x) => (float[n] y) { y = Relu(x) }", {}, {"x": normal(3)}, tmp_path)
    assert told == Estimate(0, 0, 1, ())


def test_resnet_20_has_the_operations_its_paper_tells(shared_data: Path) -> None:
    """He et al. 2015 by layers: 40.55 million multiply-adds for an image of 32 × 32."""
    graph = OnnxGraph(shared_data / "images" / "resnet20.onnx")
    samples = draw_random(graph.inputs, graph.gathered_rows, {}, 1, 0)
    (feeds, _), *_ = join_samples(samples, graph.inputs, 1)
    told = estimate(graph, found(graph), {layer.name for layer in linears(graph)}, feeds)
    assert told.flops == pytest.approx(2 * 40.55e6, rel=1e-3)
    assert told.sparse_share == pytest.approx(1 - 2 * 1024 * 27 * 16 / told.flops)  # all but the first


def test_a_tied_head_counts_although_it_stays_dense() -> None:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=256,
        tie_word_embeddings=True,
    )
    module = LlamaForCausalLM(config)
    inputs = {"input_ids": torch.zeros(2, 32, dtype=torch.int64), "use_cache": False}
    graph = FxGraph(Path("llama"), trace(module, (), inputs, "llama"))
    layers = FindLinears().call(graph=graph).layers
    told = estimate(
        graph,
        layers,
        {layer.name for layer in layers if isinstance(layer, Linear)},
        {"input_ids": np.zeros((3, 10), np.int64)},
    )
    blocks = 2 * 2 * 30 * (4 * 64 * 64 + 3 * 64 * 128)
    head = 2 * 30 * 64 * 256
    assert told.flops == blocks + head
    assert told.sparse_share == pytest.approx(blocks / (blocks + head))
    assert told.not_counted == ()


class Experts(nn.Module):
    """A batch of matrices, one for each expert."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Each expert has rows of its own: [E, rows, K]."""
        return torch.bmm(x, self.weight)


def test_experts_count_their_own_rows() -> None:
    graph = FxGraph(Path("experts"), trace(Experts(), (torch.randn(3, 5, 8),), {}, "experts"))
    layers = FindLinears().call(graph=graph).layers
    assert len(layers) == 3
    told = estimate(graph, layers, {layers[0].name}, {graph.inputs[0].name: normal(3, 5, 8)})
    assert told.shapes == (ShapeShare(8, 4, 5, 3, 1, 3 * 2 * 5 * 32.0, 1.0),)
    assert told.sparse_share == pytest.approx(1 / 3)


class Dense(nn.Module):
    """A convolution that can be pruned, and what stays dense beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.transposed = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.recurrent = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Products of two activations at the end, one with a constant bias."""
        rows, _ = self.recurrent(self.transposed(self.depthwise(self.first(x))).mean(-1).transpose(1, 2))
        return torch.addmm(torch.ones(4), rows[0], rows[0].T @ rows[0])


def test_a_torch_program_counts_its_dense_convolutions_and_names_the_rest() -> None:
    graph = FxGraph(Path("dense"), trace(Dense(), (torch.randn(2, 4, 5, 5),), {}, "dense"))
    layers = FindLinears().call(graph=graph).layers
    told = estimate(graph, layers, set(), {graph.inputs[0].name: normal(2, 4, 5, 5)})
    positions = 2 * 5 * 5
    assert told.flops == 2 * positions * (4 * 8 + 8 * 9 + 8 * 6 * 4 // 2)
    assert told.not_counted == ("1 × lstm: recurrent layer: TensorRT has no sparse kernel for it",)
    assert told.of_activations == 2


def test_pruned_weights_change_nothing(tmp_path: Path) -> None:
    text = "g (float[b,8] x) => (float[b,4] y) { y = MatMul(x, w) }"
    dense = opened(model(text, {"w": normal(8, 4)}), tmp_path)
    sparse = opened(model(text, pruned(dense)), tmp_path / "sparse")
    feeds = {"x": normal(3, 8)}
    assert estimate(dense, found(dense), set(), feeds) == estimate(sparse, found(sparse), set(), feeds)


@given(st.floats(0, 1))
def test_the_bound_is_amdahls_between_one_and_two(share: float) -> None:
    assert 1 <= apply_amdahl(share) <= 2
    assert apply_amdahl(share) == pytest.approx(1 / ((1 - share) + share / 2))
