"""Gram and cross matrices against the whole model run by ONNX Runtime and a product in numpy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Linear
from tests.graphs import Walk, normal, opened, run
from tests.passes.calibrate.networks import GRAPHS, convolutional, uvw


def values(proto: onnx.ModelProto, weights: Mapping[str, Array], names: Sequence[str], feeds: Feeds) -> list[Array]:
    """Inner values of the whole model, some of its initializers replaced."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    fetched = [name for name in names if name not in feeds]
    if not fetched:
        return [feeds[name] for name in names]
    del changed.graph.output[:]
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetched)
    known = dict(feeds) | dict(zip(fetched, run(changed, feeds), strict=True))
    return [known[name] for name in names]


def rows(x: Array, k: int) -> Array:
    """[tokens, K] of a MatMul's left operand."""
    return x.astype(np.float64).reshape(-1, k)


def expect(
    walk: Walk, proto: onnx.ModelProto, layer: Linear, feeds: Sequence[Feeds], unsolved: Sequence[str] = ()
) -> None:
    """Compares a layer's moments with whole-model runs, all weights pruned but those `unsolved` at that time."""
    weights = {name: array for name, array in walk.weights.items() if name not in unsolved}
    gram, cross, dense = np.zeros((layer.k, layer.k)), np.zeros((layer.k, layer.k)), np.zeros(layer.k)
    tokens = 0
    for feed in feeds:
        for use in layer.uses:
            (x_dense,) = values(proto, {}, [use.activation], feed)
            (x_pruned,) = values(proto, weights, [use.activation], feed)
            x_dense, x_pruned = rows(x_dense, layer.k), rows(x_pruned, layer.k)
            gram, cross = gram + x_pruned.T @ x_pruned, cross + x_dense.T @ x_pruned
            dense, tokens = dense + (x_dense**2).sum(0), tokens + len(x_dense)
    seen = walk.seen[layer.name].fit
    scale = np.abs(gram).max()
    np.testing.assert_allclose(seen.gram.numpy(), gram, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(seen.cross.numpy(), cross, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(seen.dense.numpy(), dense, rtol=1e-4, atol=1e-5 * scale)
    assert seen.tokens == tokens


def expect_residual(walk: Walk, proto: onnx.ModelProto, layer: Linear, branch: str, feeds: Sequence[Feeds]) -> None:
    """Compares `(r_d − rₛ)ᵀXₛ` with whole-model runs."""
    total = np.zeros((layer.n, layer.k))
    for feed in feeds:
        names = [layer.uses[0].activation, branch]
        (_, r_dense), (x, r) = values(proto, {}, names, feed), values(proto, walk.weights, names, feed)
        total += (rows(r_dense, layer.n) - rows(r, layer.n)).T @ rows(x, layer.k)
    assert np.abs(total).max() > 0.1, "the sample shows nothing"
    got = walk.seen[layer.name].residuals["fit"].numpy()
    np.testing.assert_allclose(got, total, rtol=1e-4, atol=1e-5 * np.abs(total).max())


@pytest.mark.parametrize("case", GRAPHS)
def test_moments_are_those_of_the_whole_model(case: str, tmp_path: Path) -> None:
    proto = uvw(GRAPHS[case])
    feeds = [{"x": normal(4, 8, seed=seed)} for seed in (1, 2, 3)]
    walk = Walk(opened(proto, tmp_path), feeds)
    assert len(walk.layers) == 3
    for layer in walk.layers:
        expect(walk, proto, layer, feeds)


def test_the_two_streams_differ_behind_a_pruned_layer_and_only_there(tmp_path: Path) -> None:
    walk = Walk(opened(uvw(GRAPHS["residual branches"]), tmp_path), [{"x": normal(4, 8)}])
    first, second, third = (walk.seen[layer.name].fit for layer in walk.layers)
    assert np.array_equal(first.gram, first.cross)
    assert not np.allclose(second.gram, second.cross, rtol=1e-2)
    assert not np.allclose(third.gram, third.cross, rtol=1e-2)


def test_how_far_a_residual_branch_has_moved_is_seen_by_the_layer_that_is_added_to_it(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,8] y) {
        h = MatMul(x, u) a = Relu(h) b = MatMul(a, v) p = Add(b, bias) s = Add(h, p) t = Tanh(s)
        c = MatMul(t, w) y = Add(c, x) }"""
    proto = uvw(text)
    feeds = [{"x": normal(4, 8, seed=seed)} for seed in (1, 2)]
    walk = Walk(opened(proto, tmp_path), feeds)
    first, second, third = walk.layers
    expect_residual(walk, proto, second, "h", feeds)
    assert first.uses[0].residual is None
    assert walk.seen[first.name].residuals == {}
    assert third.uses[0].residual == "x"
    assert walk.seen[third.name].residuals == {}, "an input never moves"


@pytest.mark.parametrize(
    "body",
    [
        "s = ReduceSum(h, first) z = Add(b, s)",  # broadcast: other rows than the product
        "z = Sub(h, b)",  # no sum
        "q = Relu(b) s = Add(b, h) z = Add(s, q)",  # the product is read twice
        "s = MatMul(h, w) z = Add(b, s)",  # not computed yet when the layer is solved
    ],
)
def test_what_is_no_residual_branch_is_not_taken_for_one(body: str, tmp_path: Path) -> None:
    text = f"""g (float[4,8] x) => (float[m,8] y) {{
        h = MatMul(x, u) a = Relu(h) b = MatMul(a, v) {body} y = MatMul(z, last) }}"""
    proto = uvw(text)
    for name, array in {"first": np.array([0]), "last": normal(8, 8, seed=8)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    walk = Walk(opened(proto, tmp_path), [{"x": normal(4, 8)}])
    assert all(not seen.residuals for seen in walk.seen.values())


def test_several_inputs_each_of_its_own_type(tmp_path: Path) -> None:
    text = """g (float[n,8] x, int64[n] i, float[n,8] z) => (float[n,8] y) {
        e = Gather(table, i) a = Add(e, x) b = MatMul(a, u) c = Mul(b, z) d = MatMul(c, v) y = MatMul(d, w) }"""
    proto = uvw(text)
    proto.graph.initializer.append(numpy_helper.from_array(normal(10, 8, seed=5), "table"))
    feeds = [{"x": normal(3, 8), "i": np.array([9, 0, 4]), "z": normal(3, 8, seed=7)}]
    walk = Walk(opened(proto, tmp_path), feeds)
    for layer in walk.layers:
        expect(walk, proto, layer, feeds)


def test_a_weight_used_at_several_depths_sums_all_uses_while_it_is_dense(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,8] y) {
        [early] a = MatMul(x, w) [mid] b = MatMul(a, u) [late] c = MatMul(b, w) [last] y = MatMul(c, v) }"""
    proto = uvw(text)
    feeds = [{"x": normal(4, 8, seed=seed)} for seed in (1, 2)]
    walk = Walk(opened(proto, tmp_path), feeds)
    by_name = {layer.name: layer for layer in walk.layers}
    assert len(by_name["early"].uses) == 2
    expect(walk, proto, by_name["early"], feeds, unsolved=["w"])
    expect(walk, proto, by_name["mid"], feeds, unsolved=["w"])
    # from here on `w` is pruned, but what flowed through its early use is not run again
    seen, tokens = walk.seen["last"].fit, 8
    assert seen.tokens == tokens
    gram = np.zeros((8, 8))
    for feed in feeds:
        (b,) = values(proto, {"u": walk.weights["u"]}, ["b"], feed)
        c = rows(b, 8) @ walk.weights["w"].astype(np.float64)
        gram += c.T @ c
    np.testing.assert_allclose(seen.gram.numpy(), gram, rtol=1e-4, atol=1e-4)


def test_a_weight_used_twice_at_one_depth_sums_both(tmp_path: Path) -> None:
    text = "g (float[n,8] x, float[n,8] z) => (float[n,8] y) { a = MatMul(x, w) b = MatMul(z, w) y = Add(a, b) }"
    proto = uvw(text)
    feeds = [{"x": normal(4, 8), "z": 3 * normal(4, 8, seed=2)}]
    walk = Walk(opened(proto, tmp_path), feeds)
    expect(walk, proto, walk.layers[0], feeds)
    assert walk.seen[walk.layers[0].name].fit.tokens == 8


def test_layers_that_read_one_value_share_its_moments(tmp_path: Path) -> None:
    walk = Walk(opened(uvw(GRAPHS["attention"]), tmp_path), [{"x": normal(4, 8)}])
    query, key, output = (walk.seen[layer.name] for layer in walk.layers)
    assert query.fit is key.fit
    assert output.fit is not key.fit


def test_the_parts_of_the_data_are_summed_apart(tmp_path: Path) -> None:
    feeds = [{"x": normal(4, 8, seed=seed)} for seed in range(5)]
    graph = opened(uvw(GRAPHS["residual branches"]), tmp_path)
    both = Walk(graph, feeds, ["fit", "choice", "fit", "choice", "fit"])
    fit = Walk(graph, feeds[::2])
    for layer in both.layers:
        seen = both.seen[layer.name]
        assert seen.choice is not None
        assert (seen.fit.tokens, seen.choice.tokens) == (12, 8)
        np.testing.assert_allclose(seen.fit.gram, fit.seen[layer.name].fit.gram, rtol=1e-6)
        assert fit.seen[layer.name].choice is None


def test_streams_that_choose_different_tokens_are_not_paired(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[m,8] y) {
        a = MatMul(x, u) s = ReduceSum<keepdims = 0>(a, one) p = Greater(s, zero_float)
        c = Compress<axis = 0>(x, p) y = MatMul(c, v) }"""
    proto = uvw(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    feeds = {"x": normal(64, 8, seed=3)}
    walk = Walk(opened(proto, tmp_path), [feeds])
    (x_dense,), (x_pruned,) = values(proto, {}, ["c"], feeds), values(proto, walk.weights, ["c"], feeds)
    assert len(x_dense) != len(x_pruned), "the sample shows nothing"
    seen = walk.seen[walk.layers[1].name].fit
    assert seen.tokens == len(x_pruned)
    np.testing.assert_allclose(seen.gram.numpy(), x_pruned.T @ x_pruned, rtol=1e-4, atol=1e-4)
    assert np.array_equal(seen.cross, seen.gram)


@pytest.mark.parametrize("noise", ["RandomNormalLike(a)", "RandomUniform<shape = [4, 8]>()", "Bernoulli(half)"])
def test_random_operators_draw_the_same_in_both_streams(noise: str, tmp_path: Path) -> None:
    text = f"""g (float[4,8] x) => (float[4,8] y) {{
        a = MatMul(x, u) half = Sigmoid(a) r = {noise} b = Add(a, r) y = MatMul(b, v) }}"""
    proto = uvw(text)
    sparse = proto.graph.initializer[0]
    assert sparse.name == "u"
    sparse.CopyFrom(numpy_helper.from_array(np.diag(np.arange(1, 9, dtype=np.float32)), "u"))  # 2:4 as it is
    feeds = [{"x": normal(4, 8, seed=seed)} for seed in (1, 2)]
    graph = opened(proto, tmp_path)
    seen = Walk(graph, feeds).seen["MatMul:y"].fit
    ort.set_seed(99)  # as another process would have it: ONNX Runtime seeds itself with the time
    again = Walk(graph, feeds).seen["MatMul:y"].fit
    np.testing.assert_array_equal(seen.cross, seen.gram)
    np.testing.assert_array_equal(again.gram, seen.gram)


def test_a_sequence_between_two_stages_is_refused_in_one_sentence(tmp_path: Path) -> None:
    text = """g (float[4,8] x) => (float[4,8] y) {
        a = MatMul(x, u) s = SequenceConstruct(a, x) b = MatMul(a, v)
        m = ReduceMax<keepdims = 0>(b) o = Mul(m, zero_float) i = Cast<to = 7>(o)
        c = SequenceAt(s, i) d = Add(b, c) y = MatMul(d, w) }"""
    with pytest.raises(InputError, match=r"'s' between two stages is not a tensor but a list"):
        Walk(opened(uvw(text), tmp_path), [{"x": normal(4, 8)}])


def test_the_moments_of_a_convolution_predict_its_output(tmp_path: Path) -> None:
    proto, feeds = convolutional(), {"x": normal(3, 4, 6, 6)}
    walk = Walk(opened(proto, tmp_path), [feeds])
    (layer,) = walk.layers
    weight = walk.graph.weight(layer).double()
    (y,) = run(proto, feeds)
    energy = np.einsum("nihw,njhw->ij", y.astype(np.float64), y.astype(np.float64))
    predicted = weight @ walk.seen[layer.name].fit.gram @ weight.T
    np.testing.assert_allclose(predicted.numpy(), energy, rtol=1e-4, atol=1e-3)
    assert walk.seen[layer.name].fit.tokens == 3 * 3 * 3


def test_weights_of_constant_nodes_are_replaced_too(tmp_path: Path) -> None:
    proto = uvw("g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, u) y = MatMul(a, v) }")
    (stored,) = [tensor for tensor in proto.graph.initializer if tensor.name == "u"]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["u"], value=stored))
    proto.graph.initializer.remove(stored)
    feeds = {"x": normal(4, 8)}
    walk = Walk(opened(proto, tmp_path), [feeds])
    expected = feeds["x"] @ walk.weights["u"]
    np.testing.assert_allclose(walk.seen["MatMul:y"].fit.gram.numpy(), expected.T @ expected, rtol=1e-4, atol=1e-4)
