"""Where quantisers stand, and why they do not stand elsewhere."""

from pathlib import Path

import numpy as np
import pytest

from tests.graphs import model, normal
from tests.passes.quantise.quantised import LAYERS, WEIGHTS, place

CONV = {name: normal(4, 4, 3, 3) for name in ("w", "v")}


def test_inputs_of_layers_are_quantised_behind_bias_and_activation(tmp_path: Path) -> None:
    found = place(model(LAYERS, WEIGHTS), tmp_path)
    assert found.readers == {"x": (("first", 0),), "d": (("second", 0),)}
    assert {name: (weight.axis, weight.nodes) for name, weight in found.weights.items()} == {
        "w": (1, ("first",)),
        "v": (0, ("second",)),
    }
    assert found.kept == {}
    assert found.float_outputs == {"second": "it is an output of the model, which keeps its type"}


def test_both_branches_of_a_residual_addition_are_quantised(tmp_path: Path) -> None:
    text = """g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
      [one] a = Conv<pads = [1,1,1,1]>(x, w) b = Relu(a) [two] c = Conv<pads = [1,1,1,1]>(b, v)
      [sum] d = Add(c, x) y = Relu(d) }"""
    found = place(model(text, CONV), tmp_path)
    assert found.readers["c"] == (("sum", 0),)
    assert set(found.readers["x"]) == {("one", 0), ("sum", 1)}
    assert found.float_outputs == {}


@pytest.mark.parametrize(
    "text",
    [
        "[one] a = MatMul(x, w) d = Tanh(a) y = Add(a, d)",  # no branch of its own: something else reads it
        "[one] a = MatMul(x, w) y = Add(a, b)",  # a bias
    ],
)
def test_an_addition_that_joins_no_branches_is_left(tmp_path: Path, text: str) -> None:
    found = place(
        model(f"g (float[N,8] x) => (float[N,8] y) {{ {text} }}", {"w": normal(8, 8), "b": normal(8)}), tmp_path
    )
    assert found.readers.keys() == {"x"}


ATTENTION = """g (float[N,6,8] x) => (float[N,6,8] y) {
  [qkv] a = MatMul(x, w) b = Add(a, c) q, k, v = Split<axis = 2>(b, sizes)
  r = Reshape(k, shape) t = Transpose<perm = [0,2,1]>(r) [scores] s = MatMul(q, t) p = Softmax<axis = 2>(s)
  [mixed] m = MatMul(p, v) [out] y = MatMul(m, o) }"""
OF_ATTENTION = {
    "w": normal(8, 24),
    "c": normal(24),
    "o": normal(8, 8),
    "sizes": np.array([8, 8, 8]),
    "shape": np.array([0, 0, 8]),
}


def test_queries_and_keys_are_quantised_right_behind_their_layer_and_what_softmax_makes_is_not(tmp_path: Path) -> None:
    found = place(model(ATTENTION, OF_ATTENTION), tmp_path)
    assert found.readers.keys() == {"x", "q", "k", "m"}
    assert found.readers["q"] == (("scores", 0),)
    assert found.readers["k"] == (("Reshape:r", 0),)
    assert found.kept == {"mixed": "a product of two activations that do not both come from quantised layers"}
    assert found.float_outputs["qkv"] == "MatMul mixed reads it, which stays in float"


def test_a_maximum_pool_takes_one_scale_for_both_ends(tmp_path: Path) -> None:
    text = """g (float[N,4,8,8] x) => (float[N,4,2,2] y) {
      [one] a = Conv<pads = [1,1,1,1]>(x, w) [pool] b = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
      [two] y = Conv(b, v) }"""
    found = place(model(text, CONV), tmp_path)
    assert found.readers["a"] == (("pool", 0),)
    assert found.tied == {"b": "a"}
    assert "one" not in found.float_outputs


REASONS = {
    "left operand": ("y = MatMul(w, x)", {"w": normal(6, 6)}, "the left operand"),
    "float16": (
        "h = Cast<to = 10>(x) a = MatMul(h, w) y = Cast<to = 1>(a)",
        {"w": normal(6, 6, dtype=np.float16)},
        "its weight is float16",
    ),
    "behind a cast": (
        "c = Cast<to = 1>(w) y = MatMul(x, c)",
        {"w": normal(6, 6, dtype=np.float16)},
        "its weight is float16",
    ),
    "grouped": (
        "u = Unsqueeze(x, axes) c = Conv<group = 6>(u, w) y = Squeeze(c, axes)",
        {"w": normal(6, 1, 1), "axes": np.array([2])},
        "grouped or depthwise convolution: it is not pruned and stays in float",
    ),
    "two activations": ("a = Softmax(x) y = MatMul(x, a)", {}, "do not both come from quantised layers"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_stays_in_float_says_why(tmp_path: Path, name: str) -> None:
    text, weights, reason = REASONS[name]
    found = place(model(f"g (float[6,6] x) => (float[6,6] y) {{ {text} }}", weights), tmp_path)
    assert found.readers == {}
    (said,) = found.kept.values()
    assert reason in said


def test_a_weight_stays_in_float_where_one_of_its_uses_does(tmp_path: Path) -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { [one] a = MatMul(x, w) [two] y = MatMul(a, w) }"
    found = place(model(text, {"w": normal(8, 8)}), tmp_path, keep={"two": "kept by request (two)"})
    assert found.kept == {
        "two": "kept by request (two)",
        "one": "it shares its weight with two, which stays in float",
    }
    assert found.weights == {}


def test_a_shared_weight_is_stored_once(tmp_path: Path) -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { [one] a = MatMul(x, w) [two] y = MatMul(a, w) }"
    found = place(model(text, {"w": normal(8, 8)}), tmp_path)
    assert found.weights["w"].nodes == ("one", "two")


def test_an_unsafe_value_is_quantised_for_nobody(tmp_path: Path) -> None:
    found = place(model(LAYERS, WEIGHTS), tmp_path, unsafe={"d": "d holds an infinity or NaN"})
    assert found.kept == {"second": "d holds an infinity or NaN"}
    assert found.readers.keys() == {"x"}
    assert found.float_outputs == {"first": "Gemm second reads it, which stays in float"}
