"""The bound of `inspect --gpu`: figures from the formula, for shapes that the code does not name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.engines.gain import bound_gain, bound_times
from prox24_export.engines.gpus import GPUS
from prox24_export.errors import InputError
from prox24_export.models.configured_shapes import open_shapes
from prox24_export.option_values import GpuName
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.pipeline import inspect_on_gpu
from prox24_export.results.gain import GpuGain, LayerGain
from tests.graphs import found, model, normal, opened, save

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 1,  # all layers of Llama-7B have the shapes of one
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "vocab_size": 30522,
}
SHEETS: dict[GpuName, tuple[float, float, float]] = {  # fp16, int8, bytes a second, as the sheets have them
    "a100": (312e12, 624e12, 2.039e12),
    "l4": (242e12 / 2, 485e12 / 2, 300e9),
    "orin": (85e12 / 2, 170e12 / 2, 204.8e9),
}


def expected(gpu: GpuName, size: int, k: int, n: int, tokens: int, *, window: int = 1) -> tuple[float, float]:
    """Dense and sparse seconds by the roofline, written down a second time."""
    fp16, int8, bandwidth = SHEETS[gpu]
    rate = {2: fp16, 1: int8}[size]
    operations, around = 2 * tokens * k * n, size * (tokens * k / window + tokens * n)
    kept = {2: 9 / 16, 1: 5 / 8}[size] * size * k * n
    dense = max(operations / rate, (size * k * n + around) / bandwidth)
    return dense, max(operations / rate / 2, (kept + around) / bandwidth)


def ratio(gpu: GpuName, size: int, *shape: int) -> float:
    dense, sparse = expected(gpu, size, *shape)
    return dense / sparse


def write_configuration(folder: Path, configuration: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> FxGraph:
    return open_shapes(write_configuration(tmp_path_factory.mktemp("llama"), LLAMA))


def by_shape(gain: GpuGain) -> dict[tuple[int, int], LayerGain]:
    return {(layer.k, layer.n): layer for layer in gain.layers}


@pytest.mark.parametrize("gpu", SHEETS)
@pytest.mark.parametrize("tokens", [1, 512])
def test_a_llama_without_weights(gpu: GpuName, tokens: int, llama: FxGraph) -> None:
    gain = bound_gain(llama, found(llama), gpu, 1, tokens)
    assert gain.inputs == {"input_ids": (1, tokens)}
    shapes = by_shape(gain)
    assert shapes.keys() == {(4096, 4096), (4096, 11008), (11008, 4096), (4096, 32000)}
    for (k, n), layer in shapes.items():
        assert layer.tokens == tokens
        assert layer.fp16 == pytest.approx(ratio(gpu, 2, k, n, tokens))
        assert layer.int8 == pytest.approx(ratio(gpu, 1, k, n, tokens))
        assert layer.is_likely
    times = [expected(gpu, 2, layer.k, layer.n, tokens) for layer in gain.layers]
    assert gain.fp16 == gain.fp16_likely == pytest.approx(sum(d for d, _ in times) / sum(s for _, s in times))
    if tokens == 1:  # a token at a time waits for the weights: what is left of their bytes is the gain
        assert {layer.fp16_limit for layer in gain.layers} == {"memory"}
        assert gain.fp16 == pytest.approx(16 / 9, abs=0.01)
        assert gain.int8 == pytest.approx(8 / 5, abs=0.01)


def test_a_bert_counts_every_layer_for_its_batch(tmp_path: Path) -> None:
    layers, gain = inspect_on_gpu(write_configuration(tmp_path, BERT), "a100", batch=4, sequence=64)
    assert [layer.name for layer in layers] == [layer.name for layer in gain.layers]
    assert len(gain.layers) == 2 * 6 + 1
    assert by_shape(gain)[768, 3072].tokens == 4 * 64
    assert by_shape(gain)[768, 3072].fp16 == pytest.approx(ratio("a100", 2, 768, 3072, 256))
    assert gain.layers[-1].tokens == 4  # the pooler reads one token of each sample
    assert gain.not_counted == ()


@pytest.mark.parametrize(("file", "tokens"), [("speech/kwt1_encoder.onnx", 99), ("images/resnet20.onnx", 1024)])
def test_small_real_models_are_hardly_worth_it(file: str, tokens: int, shared_data: Path) -> None:
    layers, gain = inspect_on_gpu(shared_data / file, "orin", batch=2)
    windows = {layer.name: 9 if layer.op == "Conv" else 1 for layer in layers}
    pruned = {layer.name for layer in layers if layer.state == "sparse"}
    checked = 0
    for layer in gain.layers:
        if layer.name in pruned:
            checked += 1
            wanted = [
                expected("orin", size, layer.k, layer.n, layer.tokens, window=windows[layer.name]) for size in (2, 1)
            ]
            assert layer.fp16 == pytest.approx(wanted[0][0] / wanted[0][1])
            assert layer.int8 == pytest.approx(wanted[1][0] / wanted[1][1])
    assert checked == len(pruned) > 10
    assert max(layer.tokens for layer in gain.layers) == 2 * tokens
    assert gain.fp16_likely == gain.int8_likely == 1.0
    assert not any(layer.is_likely for layer in gain.layers)


MIXED = {"a": normal(256, 512), "b": normal(512, 20), "c": normal(24, 512), "d": normal(512, 6)}
TEXT = """g (float[N,256] x, float[N,24] z) => (float[N,20] y, float[N,512] u, float[N,6] v) {
    h = MatMul(x, a) y = MatMul(h, b) u = MatMul(z, c) v = MatMul(h, d) }"""


def test_each_layer_says_what_limits_it(tmp_path: Path) -> None:
    graph = opened(model(TEXT, MIXED), tmp_path)
    gain = bound_gain(graph, found(graph), "a100", 512, 1)
    reasons = {layer.n if layer.k != 24 else -layer.k: layer.reason for layer in gain.layers}
    assert reasons == {
        512: "waits for memory",
        20: "fewer than 256 channels: sparse kernels hardly win there",
        -24: "K is no multiple of 16",
        6: "fewer than 256 channels: sparse kernels hardly win there",
    }
    assert [layer.is_likely for layer in gain.layers].count(True) == 1
    assert 1 < gain.fp16_likely < gain.fp16


def test_layers_that_stay_dense_take_their_time_and_gain_nothing(tmp_path: Path) -> None:
    text = "g (float[N,512] x) => (float[N,512] y) { h = MatMul(x, w) y = MatMul(h, v) }"
    graph = opened(model(text, {"w": normal(512, 510), "v": normal(510, 512)}), tmp_path)
    gain = bound_gain(graph, found(graph), "a100", 64, 1)
    dense, sparse = expected("a100", 2, 512, 510, 64)
    kept = max(2 * 64 * 510 * 512 / 312e12, 2 * (510 * 512 + 64 * 512) / 2.039e12)  # its input is not counted
    assert gain.fp16 == pytest.approx((dense + kept) / (sparse + kept))
    assert gain.layers[1].fp16 == gain.layers[1].int8 == 1
    assert gain.layers[1].reason == "stays dense: the reduction dimension is not a multiple of 4 (K = 510)"


def test_a_gpu_without_sparse_cores_gains_nothing(tmp_path: Path) -> None:
    graph = opened(model(TEXT, MIXED), tmp_path)
    gain = bound_gain(graph, found(graph), "t4", 4096, 1)
    assert gain.fp16 == gain.int8 == 1
    assert {layer.reason for layer in gain.layers} == {"the GPU has no sparse tensor cores"}


def test_no_gain_is_above_two_or_below_one() -> None:
    for rates in GPUS.values():
        for k, n, tokens, size in [(16, 8, 1, 2), (4096, 4096, 1, 1), (4096, 4096, 1 << 20, 2), (64, 1 << 16, 7, 1)]:
            times = bound_times(k, n, tokens, inputs=tokens * k, rates=rates, size=size)
            assert 1 <= times.dense / times.sparse <= 2


def test_a_model_that_cannot_be_run_is_told_with_the_way_out(tmp_path: Path) -> None:
    text = "g (float[N,8] x) => (float[2,4] y) { h = Reshape(x, s) y = MatMul(h, w) }"
    weights = {"w": normal(8, 4), "s": np.array([2, 8], np.int64)}
    graph = OnnxGraph(save(model(text, weights), tmp_path))
    with pytest.raises(InputError, match=r"cannot be run on random inputs of batch 3 .* Leave out --gpu"):
        bound_gain(graph, found(graph), "a100", 3, 1)
