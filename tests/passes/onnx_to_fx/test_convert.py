"""ONNX graphs as differentiable torch functions: real models agree with ONNX Runtime, or say what is in the way."""

import copy
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from prox24_export.data.batches import join_samples
from prox24_export.data.random_samples import draw_random
from prox24_export.errors import Prox24Error
from prox24_export.models.find_frontend import find_frontend
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.passes.onnx_to_fx.check import TOLERANCE, DivergenceError, check_conversion, find_difference
from prox24_export.passes.onnx_to_fx.convert import Converted, ConvertToFx
from prox24_export.passes.onnx_to_fx.table import NotDifferentiableError
from tests.graphs import model, normal, opened

REAL = ["speech/kwt1_encoder", "images/resnet20", "files/magika_v3_3"]
EDGE = {
    "mnist_cntk": "",
    "nnsplit_en": "",
    "ppocrv3_det_en": "ONNX Runtime cannot load",
    "shufflenet-v2-12-int8": "not differentiable here: operator QLinearConv at node fused Conv_0_quant",
    "silero_vad_op18_ifless": "not differentiable here: operator If at node node_cond__1",
    "super_resolution": "declares no opset",
    "superres_prepost_op18": "ONNX Runtime cannot load",
    "ultraface_rfb320": "",
    "vttrack_old": "",
}
TWO_LAYERS = """g (float[n,8] x) => (float[n,4] y) {
    a = MatMul(x, w) b = Relu(a) c = Add(b, bias) y = MatMul(c, v) }"""
WEIGHTS = {"w": normal(8, 16), "bias": normal(16, seed=1), "v": normal(16, 4)}


def drawn(graph: OnnxGraph, batch: int = 1) -> Feeds:
    """Random feeds, as many samples at once as wanted."""
    samples = draw_random(graph.inputs, graph.gathered_rows, {}, batch, 0)
    (feeds, _), *_ = join_samples(samples, graph.inputs, batch)
    return feeds


def tensors(feeds: Feeds) -> list[Tensor]:
    return [torch.from_numpy(array) for array in feeds.values()]


def of(text: str, weights: Mapping[str, Array], folder: Path) -> tuple[OnnxGraph, Converted]:
    """A model in ONNX text, opened and converted."""
    graph = opened(model(text, weights), folder)
    return graph, ConvertToFx().call(graph=graph)


def gradients(converted: Converted, feeds: Feeds) -> dict[str, Tensor | None]:
    """By stored name, the gradient of the sum of squares of the outputs."""
    sum((output.square().sum() for output in converted.module(*tensors(feeds))), torch.zeros(())).backward()
    return {name: converted.module.get_parameter(place).grad for name, place in converted.parameters.items()}


@pytest.mark.parametrize("name", REAL)
def test_a_real_model_agrees_for_any_batch_and_every_parameter_has_a_gradient(name: str, shared_data: Path) -> None:
    graph = OnnxGraph(shared_data / f"{name}.onnx")
    converted = ConvertToFx().call(graph=graph)
    for batch in (1, 3):
        check_conversion(converted, graph, drawn(graph, batch))
    found = gradients(converted, drawn(graph, 2))
    assert found
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("name", REAL)
def test_every_linear_layer_of_a_real_model_is_a_parameter(name: str, shared_data: Path) -> None:
    graph = OnnxGraph(shared_data / f"{name}.onnx")
    converted = ConvertToFx().call(graph=graph)
    weights = {operator.weight for operator in graph.operators() if operator.weight is not None}
    assert weights
    assert weights <= converted.parameters.keys()
    for weight in weights:
        parameter = converted.module.get_parameter(converted.parameters[weight])
        assert np.array_equal(parameter.detach().numpy(), graph.stored(weight))


def test_a_language_model_exported_to_onnx_agrees_for_any_length(tmp_path: Path) -> None:
    from tests.models.transformers_models import saved  # noqa: PLC0415 - it skips where transformers is missing

    saved("decoder", tmp_path / "decoder")
    frontend = find_frontend(tmp_path / "decoder")
    graph = OnnxGraph(frontend.write_onnx(frontend.open(), tmp_path))
    converted = ConvertToFx().call(graph=graph)
    for shape in ((1, 7), (2, 40)):
        check_conversion(converted, graph, {"input_ids": np.random.default_rng(0).integers(0, 96, shape)})
    found = gradients(converted, {"input_ids": np.arange(30).reshape(2, 15)})
    assert len(found) >= 12  # seven matrices, three norms, embedding and head
    assert all(gradient is not None for gradient in found.values())


@pytest.mark.parametrize(("name", "sentence"), EDGE.items())
def test_an_awkward_file_agrees_or_says_what_is_in_the_way(name: str, sentence: str, shared_data: Path) -> None:
    path = shared_data / "edge" / f"{name}.onnx"
    if sentence:
        with pytest.raises(Prox24Error, match=re.escape(sentence)):
            ConvertToFx().call(graph=OnnxGraph(path))
        return
    graph = OnnxGraph(path)
    check_conversion(ConvertToFx().call(graph=graph), graph, drawn(graph))


def test_a_batch_of_any_size_and_the_names(tmp_path: Path) -> None:
    text = """g (float[n,8] lambda, float[n,8] data) => (float[n,4] y, float[n,m] z) {
        a = Add(lambda, data) s = Shape(a) k = Constant<value = int64[2] {0, -1}>() r = Reshape(a, k)
        y = MatMul(r, weight) z = ConstantOfShape<value = float[1] {2.0}>(s) }"""
    proto = model(text, {"weight": normal(8, 4)})
    for named in (proto.graph.input[1], proto.graph.initializer[0]):
        named.name += ".1"
    proto.graph.node[0].input[1], proto.graph.node[4].input[1] = "data.1", "weight.1"
    graph = opened(proto, tmp_path)
    converted = ConvertToFx().call(graph=graph)
    assert dict(converted.inputs) == {"lambda": "lambda_", "data.1": "data_1"}
    assert dict(converted.parameters) == {"weight.1": "weight_1"}
    for batch in (1, 5):
        check_conversion(converted, graph, {"lambda": normal(batch, 8), "data.1": normal(batch, 8, seed=2)})
    described = {node.meta["value"]: node.meta["onnx"] for node in converted.module.graph.nodes if node.meta}
    assert described["y"] == ("MatMul:y", "MatMul")


def test_what_is_stored_and_reached_is_a_parameter_and_all_else_is_computed_once(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,8] y) {
        half = Constant<value = float {0.5}>() bias = Constant<value = float[8] {1,2,3,4,5,6,7,8}>()
        e = Exp(half) a = Mul(x, e) t = Add(table, table) i = Cast<to = 7>(t) b = Gather<axis = 1>(a, i)
        y = Add(b, bias) }"""
    graph, converted = of(text, {"table": np.arange(8, dtype=np.float32) / 2}, tmp_path)
    assert dict(converted.parameters) == {"bias": "bias"}
    calls = [node.meta["onnx"][1] for node in converted.module.graph.nodes if node.op == "call_function"]
    assert calls == ["Mul", "Gather", "Add"]
    check_conversion(converted, graph, {"x": normal(3, 8)})


def test_a_weight_used_twice_is_one_parameter_whose_gradient_is_that_of_both_uses(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, w) t = Transpose(w) y = MatMul(a, t) }"
    graph, converted = of(text, {"w": normal(8, 8)}, tmp_path)
    feeds = {"x": normal(3, 8)}
    check_conversion(converted, graph, feeds)
    w = torch.from_numpy(normal(8, 8)).requires_grad_()
    (expected,) = torch.autograd.grad((torch.from_numpy(feeds["x"]) @ w @ w.T).square().sum(), w)
    torch.testing.assert_close(gradients(converted, feeds), {"w": expected})


def test_gradients_reach_a_weight_behind_layout_operators_and_casts(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,16] y) {
        k = Constant<value = int64[2] {16, 8}>() a = Reshape(w, k) b = Cast<to = 1>(a) c = Identity(b)
        d = Transpose(c) y = MatMul(x, d) }"""
    graph, converted = of(text, {"w": normal(8, 16, dtype=np.float16)}, tmp_path)
    check_conversion(converted, graph, {"x": normal(3, 8)})
    gradient = gradients(converted, {"x": normal(3, 8)})["w"]
    assert gradient is not None
    assert gradient.shape == (8, 16)
    assert gradient.abs().min() > 0


def test_gradients_pass_straight_through_the_rounding_of_quantised_weights(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) {
        s = Constant<value = float {0.05}>() z = Constant<value = int8 {3}>()
        q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = MatMul(x, d) }"""
    weight = normal(8, 4)
    weight[0] = 100  # beyond what int8 holds at this scale
    graph, converted = of(text, {"w": weight}, tmp_path)
    feeds = {"x": normal(5, 8)}
    check_conversion(converted, graph, feeds)
    expected = 2 * torch.from_numpy(feeds["x"]).T @ converted.module(*tensors(feeds))[0].detach()
    expected[0] = 0
    torch.testing.assert_close(gradients(converted, feeds), {"w": expected})


def test_float16_is_computed_in_float32_and_agrees_within_its_rounding(tmp_path: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in WEIGHTS.items()}
    graph, converted = of(TWO_LAYERS.replace("float[", "float16["), half, tmp_path)
    feeds = {"x": normal(3, 8, dtype=np.float16)}
    assert converted.is_widened
    assert converted.module(*tensors(feeds))[0].dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in converted.module.parameters())
    check_conversion(converted, graph, feeds)


@pytest.mark.parametrize(("text", "dtype"), [("bfloat16[", ml_dtypes.bfloat16), ("double[", np.float64)])
def test_wide_types_run_as_onnx_runtime_runs_them(text: str, dtype: type, tmp_path: Path) -> None:
    wide: dict[str, Array] = {name: array.astype(dtype) for name, array in WEIGHTS.items()}
    graph, converted = of(TWO_LAYERS.replace("float[", text), wide, tmp_path)
    (fed,) = graph.inputs
    check_conversion(converted, graph, {"x": normal(3, 8).astype(fed.dtype)})
    assert set(converted.parameters) == set(WEIGHTS)


def test_external_data_and_model_local_functions_are_read(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,16] y) { a = MatMul(x, w) y = local.Bias(a, bias) }"
    proto = model(text, {"w": WEIGHTS["w"], "bias": WEIGHTS["bias"]}, more=', "local" : 1')
    body = '<domain: "local", opset_import: ["" : 17]> Bias (a, b) => (r) { c = Add(a, b) r = Relu(c) }'
    proto.functions.append(onnx.parser.parse_function(body))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    graph = OnnxGraph(tmp_path / "m.onnx")
    converted = ConvertToFx().call(graph=graph)
    assert set(converted.parameters) == {"w", "bias"}
    check_conversion(converted, graph, {"x": normal(3, 8)})


def test_the_function_can_be_copied_pickled_and_printed(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,8] y) {
        s = Shape(x) o = ConstantOfShape<value = float[1] {1.0}>(s) a = MatMul(x, w) b = Add(a, o) y = Relu(b) }"""
    _, converted = of(text, {"w": normal(8, 8)}, tmp_path)
    module, x = converted.module, torch.from_numpy(normal(3, 8))
    assert "MatMul_a" in module.code
    copied = copy.deepcopy(module)
    assert [node.meta for node in copied.graph.nodes] == [node.meta for node in module.graph.nodes]
    for other in (copied, pickle.loads(pickle.dumps(module))):  # noqa: S301 (made here)
        assert torch.equal(other(x)[0], module(x)[0])
        with torch.no_grad():
            next(other.parameters()).zero_()
        assert not torch.equal(other(x)[0], module(x)[0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            """(float[2] x, bool c) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] k) { k = Relu(x) }, else_branch = e () => (float[2] l)
            { l = Tanh(x) }> }""",
            "operator If at node If:y",
        ),
        ("(float[2] x) => (float[2] y) { n = RandomNormal<shape = [2]>() y = Add(x, n) }", "operator RandomNormal at"),
        ("(float[2] x) => (float[2] y) { y = com.microsoft.QuickGelu(x) }", "operator com.microsoft.QuickGelu at"),
        ("(float[2] x) => (float[2] y) { s = SequenceConstruct(x) y = ConcatFromSequence<axis = 0>(s) }", "Sequence"),
        ("(uint8[2,2] x) => (int32[2,2] y) { y = MatMulInteger(x, x) }", "operator MatMulInteger at node MatMulIn"),
        ("(string[2] x) => (bool[2] y) { y = Equal(x, x) }", "operator Equal at node Equal:y (input x is string"),
        (
            "(float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i) { y, i = MaxPool<kernel_shape = [3,3]>(x) }",
            "operator MaxPool at node MaxPool:y (2 outputs)",
        ),
        ("(float[2] x) => (uint16[2] y) { y = Cast<to = 4>(x) }", "operator Cast at node Cast:y (type uint16)"),
    ],
)
def test_what_is_not_covered_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    graph = opened(model(f"g {text}", opset=19, more=', "com.microsoft" : 1'), tmp_path)
    with pytest.raises(NotDifferentiableError, match=re.escape("not differentiable here: ")) as caught:
        ConvertToFx().call(graph=graph)
    assert sentence in str(caught.value)
    assert f"operator {caught.value.operator} at node {caught.value.node}" in str(caught.value)


def test_what_torch_cannot_run_is_named_by_the_check(tmp_path: Path) -> None:
    text = "g (float[n,2] x, bool training) => (float[n,2] y) { r = Constant<value = float {0.5}>() y = Dropout(x, r, training) }"  # noqa: E501
    graph, converted = of(text, {}, tmp_path)
    check_conversion(converted, graph, {"x": normal(3, 2), "training": np.array(0, bool)})
    with pytest.raises(NotDifferentiableError, match=re.escape("operator Dropout at node Dropout:y (training_mode)")):
        check_conversion(converted, graph, {"x": normal(3, 2), "training": np.array(1, bool)})


def test_the_check_names_the_first_node_whose_weight_differs(tmp_path: Path) -> None:
    graph, converted = of(TWO_LAYERS, WEIGHTS, tmp_path)
    check_conversion(converted, graph, {"x": normal(3, 8)})
    with torch.no_grad():
        converted.module.get_parameter(converted.parameters["bias"])[3] += 1
    with pytest.raises(DivergenceError, match=r"first at node Add:c \(Add\): value 'c' differs in 3 of 48") as caught:
        check_conversion(converted, graph, {"x": normal(3, 8)})
    assert (caught.value.node, caught.value.operator) == ("Add:c", "Add")


def test_the_check_names_the_first_node_whose_operator_differs(tmp_path: Path) -> None:
    graph, converted = of(TWO_LAYERS, WEIGHTS, tmp_path)
    for node in converted.module.graph.nodes:
        if node.target is torch.relu:
            node.target = torch.tanh
    converted.module.recompile()
    with pytest.raises(DivergenceError, match=r"first at node Relu:b \(Relu\)"):
        check_conversion(converted, graph, {"x": normal(3, 8)})


def test_the_check_of_a_real_model_names_the_node_of_a_changed_weight(shared_data: Path) -> None:
    graph = OnnxGraph(shared_data / "images" / "resnet20.onnx")
    converted = ConvertToFx().call(graph=graph)
    convolutions = [node for node in graph.nodes if node.op == "Conv"]
    weight = next(name for name in convolutions[7].inputs if name in converted.parameters)
    with torch.no_grad():
        converted.module.get_parameter(converted.parameters[weight]).mul_(1.1)
    with pytest.raises(DivergenceError) as caught:
        check_conversion(converted, graph, drawn(graph))
    assert caught.value.node == convolutions[7].name


VARIANCE = """g (float[n,64] x) => (float[n,64] y) {
    m = ReduceMean<axes = [-1]>(x) s = Mul(x, x) q = ReduceMean<axes = [-1]>(s) p = Mul(m, m) v = Sub(q, p)
    e = Add(v, tiny) r = Sqrt(e) c = Sub(x, m) d = Div(c, r) y = Mul(d, g)
}"""


def test_what_rounding_makes_of_a_model_that_cancels_is_no_difference(tmp_path: Path) -> None:
    """E[x²] − E[x]² of values near 300 loses all but three digits, in ONNX Runtime as in torch."""
    stored = {"tiny": np.array(1e-3, np.float32), "g": normal(64)}
    graph, converted = of(VARIANCE, stored, tmp_path)
    feeds = {"x": (300 + 0.1 * normal(40, 64)).astype(np.float32)}
    ours, theirs = converted.module(torch.from_numpy(feeds["x"]))[0], graph.runner()(feeds)[0]
    assert find_difference(ours.detach(), theirs, TOLERANCE, exact_type=True)
    check_conversion(converted, graph, feeds)
    with torch.no_grad():
        converted.module.get_parameter(converted.parameters["g"]).mul_(1.0005)
    with pytest.raises(DivergenceError, match=r"first at node Mul:y \(Mul\)"):
        check_conversion(converted, graph, feeds)


def test_an_output_that_no_node_computes_is_compared(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,16] y, float[8,16] w) { y = MatMul(x, w) }"
    graph, converted = of(text, {"w": normal(8, 16)}, tmp_path)
    check_conversion(converted, graph, {"x": 0 * normal(3, 8)})
    with torch.no_grad():
        converted.module.get_parameter(converted.parameters["w"]).add_(1)
    with pytest.raises(DivergenceError, match=r"first at node w \(Constant\): value 'w' differs in 128 of 128"):
        check_conversion(converted, graph, {"x": 0 * normal(3, 8)})


def test_training_on_the_function_lowers_a_loss(tmp_path: Path) -> None:
    _, converted = of(TWO_LAYERS, WEIGHTS, tmp_path)
    x, target = torch.from_numpy(normal(64, 8)), torch.from_numpy(normal(64, 4))
    optimiser = torch.optim.Adam(converted.module.parameters(), lr=0.01)
    losses = []
    for _ in range(50):
        loss = nn.functional.mse_loss(converted.module(x)[0], target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


INTEGERS = """g (float[n,8] x) => (float[n,4] y) { d = DequantizeLinear<axis = 1>(q, s) a = MatMul(x, d) b = Relu(a)
    c = DequantizeLinear<axis = 0>(k, s) e = Add(b, c) f = Transpose(t) y = MatMul(e, f) }"""


def test_stored_integers_are_constants_that_can_be_replaced(tmp_path: Path) -> None:
    scale = np.linspace(0.01, 0.1, 16, dtype=np.float32)
    q, k = (np.random.default_rng(0).integers(-127, 128, shape, np.int8) for shape in ((8, 16), (16,)))
    weights = {"q": q, "s": scale, "k": k, "t": normal(4, 16)}
    graph, converted = of(INTEGERS, weights, tmp_path)
    feeds: Feeds = {"x": normal(5, 8)}
    check_conversion(converted, graph, feeds)
    assert list(converted.parameters) == ["t"]  # scales are those of integers, which keep them
    ((name, (place,)),) = converted.dequantised.items()
    assert name == "q"
    np.testing.assert_allclose(converted.module.get_buffer(place).numpy(), q * scale, rtol=1e-6)
    pruned = q * np.tile([[1], [0], [0], [1]], (2, 1)).astype(np.int8)
    held = {place: torch.from_numpy(pruned * scale)}
    (found,) = torch.func.functional_call(converted.module, held, tuple(tensors(feeds)))
    (wanted,) = opened(model(INTEGERS, weights | {"q": pruned}), tmp_path / "pruned").runner()(feeds)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_where_every_tensor_is_asked_for_integers_have_names(tmp_path: Path) -> None:
    weights = {"q": np.ones((8, 16), np.int8), "s": normal(16), "k": np.ones(16, np.int8), "t": normal(4, 16)}
    converted = ConvertToFx(every_tensor=True).call(graph=opened(model(INTEGERS, weights), tmp_path))
    assert set(converted.parameters) == {"s", "t"}
    assert not converted.dequantised
    assert converted.module.get_buffer(converted.integers["q"]).dtype == torch.int8
