"""Layers that are not plain nodes of the main graph: in functions and branches, and with weights that are computed."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from prox24_export.engines.estimate import estimate
from prox24_export.passes.front_onnx import expand_model
from prox24_export.passes.graph.arrays import Array
from prox24_export.results.engine import Estimate
from tests.graphs import found, linears, model, normal, opened

FEEDS = {"x": normal(3, 8)}
CALLS = ', "local" : 1'
DENSE = '<domain: "local", opset_import: ["" : 17]> Dense (a, b) => (r) { h = MatMul(a, b) r = Relu(h) }'
OWN = '<domain: "local", opset_import: ["" : 17]> Own (a) => (r) { r = MatMul(a, k) }'
LOOP = """n = Constant<value = int64 {2}>() t = Constant<value = bool {1}>()
    z = Loop(n, t, h) <body = b (int64 i, bool p, float[3,8] c) => (bool q, float[3,8] o) {
        q = Identity(p) o = MatMul(c, v) }>"""
IF = """If(%s) <then_branch = t () => (float[3,8] p) { i = MatMul(h, %s) p = Relu(i) },
            else_branch = e () => (float[3,8] q) { i = Gemm(h, %s) j = MatMul(i, %s) q = Tanh(j) }>"""


def of(proto: onnx.ModelProto, folder: Path, feeds: dict[str, Array] | None = None) -> Estimate:
    graph = opened(proto, folder)
    return estimate(graph, found(graph), {layer.name for layer in linears(graph)}, feeds or FEEDS)


def counted(told: Estimate) -> dict[tuple[int, int, int], tuple[int, int]]:
    return {(shape.k, shape.n, shape.tokens): (shape.layers, shape.sparse) for shape in told.shapes}


class Case(NamedTuple):
    """The body behind `h = MatMul(x, w)` [8, 8], which is pruned; and what is counted beside that."""

    body: str
    weights: dict[str, Array]
    dense: dict[tuple[int, int, int], int]


COMPUTED = {
    "Mul": Case("m = Mul(v, s) z = MatMul(h, m)", {"v": normal(8, 16), "s": normal(16)}, {(8, 16, 3): 1}),
    "Concat": Case(
        "m = Concat<axis = 1>(u, v) z = MatMul(h, m)", {"u": normal(8, 4), "v": normal(8, 12)}, {(8, 16, 3): 1}
    ),
    "Split, transposed": Case(
        "a, b = Split<axis = 1>(v) t = Transpose(a) z = Gemm<transB = 1>(h, t)",
        {"v": normal(8, 32)},
        {(8, 16, 3): 1},
    ),
    "Slice and Reshape": Case(
        "a = Slice(v, from, to) b = Reshape(a, shape) z = MatMul(h, b)",
        {"v": normal(200), "from": np.array([8]), "to": np.array([136]), "shape": np.array([8, -1])},
        {(8, 16, 3): 1},
    ),
}


@pytest.mark.parametrize("is_folded", [True, False])
@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_is_computed_counts_as_sparse_where_it_is_folded(
    name: str, tmp_path: Path, *, is_folded: bool
) -> None:
    case = COMPUTED[name]
    body = case.body if is_folded else "v = Selu(stored) " + case.body
    weights = {"stored" if source == "v" and not is_folded else source: w for source, w in case.weights.items()}
    proto = model(f"g (float[n,8] x) => (float[n,m] z) {{ h = MatMul(x, w) {body} }}", weights)
    proto.graph.initializer.append(numpy_helper.from_array(normal(8, 8), "w"))
    told = of(proto, tmp_path)
    expected = {shape: (count, count * is_folded) for shape, count in case.dense.items()}
    assert counted(told) == {(8, 8, 3): (1, 1)} | expected
    assert told.bound == pytest.approx(2 if is_folded else 1 / (1 - 1 / 3 / 2))
    assert told.not_counted == ()


def test_a_sparse_initializer_counts_as_dense(tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] z) { h = MatMul(x, v) z = MatMul(h, w) }", {"w": normal(16, 8)})
    parts = numpy_helper.from_array(normal(9), "v"), numpy_helper.from_array(np.arange(9), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(*parts, [8, 16]))
    told = of(proto, tmp_path)
    assert counted(told) == {(8, 16, 3): (1, 0), (16, 8, 3): (1, 1)}


def with_functions(body: str, *functions: str, weights: dict[str, Array]) -> onnx.ModelProto:
    proto = model(f"g (float[3,8] x) => (float[3,8] z) {{ h = MatMul(x, w) {body} }}", weights, more=CALLS)
    proto.graph.initializer.append(numpy_helper.from_array(normal(8, 8), "w"))
    for text in functions:
        proto.functions.append(onnx.parser.parse_function(text))
        if "Own" in text:
            constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(normal(8, 8), "k"))
            proto.functions[-1].node.insert(0, constant)
    return proto


def test_layers_in_functions_count_at_every_call(tmp_path: Path) -> None:
    """One weight comes from the call, one is the function's own."""
    body = "a = local.Dense(h, v) b = local.Own(a) c = local.Own(b) z = local.Dense(c, u)"
    proto = with_functions(body, DENSE, OWN, weights={"v": normal(8, 8), "u": normal(8, 8)})
    told = of(proto, tmp_path)
    assert counted(told) == {(8, 8, 3): (5, 1)}
    assert told.not_counted == ()


def test_a_function_that_cannot_be_inlined_is_named(tmp_path: Path) -> None:
    other = DENSE.replace("17", "18")
    told = of(with_functions("z = local.Dense(h, v)", other, weights={"v": normal(8, 8)}), tmp_path)
    assert counted(told) == {(8, 8, 3): (1, 1)}
    assert told.not_counted == ("1 × MatMul: inside a model-local function",)


def test_a_function_that_the_model_never_calls_is_never_run(tmp_path: Path) -> None:
    told = of(with_functions("z = Relu(h)", DENSE, OWN, weights={}), tmp_path)
    assert counted(told) == {(8, 8, 3): (1, 1)}
    assert told.not_counted == ()


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("of_condition", ["an input", "a constant", "computed"])
def test_layers_of_the_branch_that_runs_count(*, of_condition: str, condition: bool, tmp_path: Path) -> None:
    """Both branches call one of their values `i`, and one weight is read in the main graph too."""
    decide = "big = ReduceSum<keepdims = 0>(x) c = Less(big, limit)" if of_condition == "computed" else ""
    fed = ", bool[1] c" if of_condition == "an input" else ""
    text = f"g (float[3,8] x{fed}) => (float[3,8] z) {{ h = MatMul(x, w) {decide} z = {IF % ('c', 'w', 'u', 'v')} }}"
    weights = {"w": normal(8, 8), "u": normal(8, 8, seed=1), "v": normal(8, 8, seed=2)}
    if of_condition == "a constant":
        weights["c"] = np.array(condition)
    elif of_condition == "computed":
        weights["limit"] = np.array(1e6 if condition else -1e6, np.float32)
    proto = model(text, weights)
    feeds = FEEDS | ({"c": np.array([condition])} if of_condition == "an input" else {})
    told = of(proto, tmp_path, feeds)
    assert counted(told) == {(8, 8, 3): (2 if condition else 3, 0)}, "a weight that a branch reads too stays dense"
    assert told.not_counted == ()


def test_branches_in_branches_and_functions_in_branches_count(tmp_path: Path) -> None:
    inner = IF % ("c", "u", "u", "u")
    text = f"""g (float[3,8] x, bool c, bool d) => (float[3,8] z) {{ h = MatMul(x, w)
        z = If(d) <then_branch = o () => (float[3,8] s) {{ a = local.Own(h) b = {inner} s = Add(a, b) }},
                   else_branch = n () => (float[3,8] r) {{ r = Identity(h) }}> }}"""
    proto = with_functions("z = Relu(h)", OWN, weights={})
    proto.graph.CopyFrom(model(text, {"w": normal(8, 8), "u": normal(8, 8, seed=1)}, more=CALLS).graph)
    wanted = {(True, True): 3, (True, False): 4, (False, True): 1, (False, False): 1}
    for (outer, within), layers in wanted.items():
        told = of(proto, tmp_path, FEEDS | {"c": np.array(within), "d": np.array(outer)})
        assert counted(told) == {(8, 8, 3): (layers, 1)}
        assert told.not_counted == ()


def test_branches_may_return_constants_and_sequences(tmp_path: Path) -> None:
    text = """g (float[3,8] x, bool c) => (float[3,8] z) { h = MatMul(x, w)
        k, m, n, s = If(c) <
            then_branch = t () => (float[1] a, float[3,8] b, float[3,8] f, seq(float[3,8]) q) {
                a = Constant<value_floats = [1.0]>() b = MatMul(h, u) f = Relu(b) q = SequenceConstruct(b, h) },
            else_branch = e () => (float[1] d, float[3,8] e1, float[3,8] e2, seq(float[3,8]) r) {
                d = Constant<value_floats = [1.0]>() e1 = Relu(h) e2 = Relu(h)
                r = SequenceConstruct(h, h) }>
        first = Constant<value = int64 {0}>() o = SequenceAt(s, first) z = Sum(k, m, n, o) }"""
    proto = model(text, {"w": normal(8, 8), "u": normal(8, 8, seed=1)}, opset=13)
    graph = opened(proto, tmp_path)
    feeds = FEEDS | {"c": np.array(True)}
    told = of(proto, tmp_path, feeds)
    assert counted(told) == {(8, 8, 3): (2, 1)}
    expanded = graph.expand(feeds)
    whole = expanded.compile(expanded.nodes, feeds, ["z"], {})
    np.testing.assert_allclose(whole(feeds)["z"], graph.runner()(feeds)[0], rtol=1e-5)


def test_a_model_that_cannot_be_expanded_is_estimated_without_what_is_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(proto: onnx.ModelProto) -> onnx.ModelProto:
        raise RuntimeError(f"{proto.graph.name} cannot be inlined")

    monkeypatch.setattr(expand_model, "inline_functions", refuse)
    told = of(with_functions("z = local.Dense(h, v)", DENSE, weights={"v": normal(8, 8)}), tmp_path)
    assert counted(told) == {(8, 8, 3): (1, 1)}
    assert told.not_counted == ("1 × MatMul: inside a model-local function",)


def test_a_body_that_shadows_a_value_of_the_branch_keeps_its_own(tmp_path: Path) -> None:
    """The body of the Loop has an `i` of its own, and reads the branch's `k`."""
    text = """g (float[3,8] x, bool c) => (float[3,8] z) { h = MatMul(x, w)
        z = If(c) <then_branch = t () => (float[3,8] p) {
                i = Relu(h) k = MatMul(i, u) n = Constant<value = int64 {2}>()
                p = Loop(n, c, h) <body = b (int64 i, bool g, float[3,8] a) => (bool q, float[3,8] o) {
                    q = Identity(g) s = Cast<to = 1>(i) m = Mul(k, s) o = Add(a, m) }> },
            else_branch = e () => (float[3,8] q) { q = Identity(h) }> }"""
    proto = model(text, {"w": normal(8, 8), "u": normal(8, 8, seed=1)})
    graph = opened(proto, tmp_path)
    feeds = FEEDS | {"c": np.array(True)}
    expanded = graph.expand(feeds)
    assert [node.op for node in expanded.nodes if node.op == "If"] == []
    nodes = expanded.compile(expanded.nodes, feeds, ["z"], {})
    np.testing.assert_allclose(nodes(feeds)["z"], graph.runner()(feeds)[0], rtol=1e-5)


def test_a_body_of_unknown_length_is_named(tmp_path: Path) -> None:
    proto = model(
        f"g (float[3,8] x) => (float[3,8] z) {{ h = MatMul(x, w) {LOOP} }}",
        {"w": normal(8, 8), "v": normal(8, 8, seed=1)},
    )
    told = of(proto, tmp_path)
    assert counted(told) == {(8, 8, 3): (1, 1)}
    assert told.not_counted == ("1 × MatMul: inside an If, Loop or Scan body",)


def test_a_recurrent_layer_is_named(tmp_path: Path) -> None:
    text = """g (float[3,1,8] x) => (float[3,1,1,4] z) { h = MatMul(x, w)
        z = LSTM<hidden_size = 4>(h, v, r) }"""
    weights = {"w": normal(8, 8), "v": normal(1, 16, 8), "r": normal(1, 16, 4)}
    told = of(model(text, weights), tmp_path, {"x": normal(3, 1, 8)})
    assert told.not_counted == ("1 × LSTM: recurrent layer: TensorRT has no sparse kernel for it",)


def test_a_transposed_convolution_counts_its_input_positions(tmp_path: Path) -> None:
    """Each input position meets C_in · C_out · kernel entries, whatever the stride makes of it."""
    text = "g (float[b,4,5,5] x) => (float[b,6,p,q] z) { h = Conv(x, w) z = ConvTranspose<strides = [2, 2]>(h, v) }"
    told = of(model(text, {"w": normal(8, 4, 1, 1), "v": normal(8, 6, 2, 2)}), tmp_path, {"x": normal(2, 4, 5, 5)})
    assert told.flops == 2 * 2 * 25 * (4 * 8 + 8 * 6 * 4)


def test_what_no_call_computes_is_not_counted(tmp_path: Path) -> None:
    """A product of constants, and one that no output needs."""
    text = """g (float[n,8] x) => (float[n,8] z) {
        c = MatMul(a, v) dead = MatMul(x, u) h = MatMul(x, w) z = Add(h, c) }"""
    weights = {name: normal(8, 8, seed=seed) for seed, name in enumerate("uvw")} | {"a": normal(1, 8)}
    told = of(model(text, weights), tmp_path)
    assert counted(told) == {(8, 8, 3): (1, 1)}
    assert told.not_counted == ()
