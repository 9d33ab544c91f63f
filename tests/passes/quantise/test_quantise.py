"""The pass: what it writes computes what numpy says, is 2:4, symmetric and int8; and what it refuses."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polygraphy.logger import G_LOGGER
from polygraphy.tools.sparse import SparsityPruner

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.quantised import read_integers
from prox24_export.passes.quantise.quantise import NOT_CHOSEN, QuantiseModel
from tests.graphs import is_two_four, linears, model, normal, opened, run, save
from tests.passes.quantise.quantised import FEEDS, LAYERS, WEIGHTS, fake_quantise, layers, quantise

CONV = """g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
  [one] a = Conv<pads = [1,1,1,1]>(x, w, c) b = Relu(a) [two] d = Conv<pads = [1,1,1,1]>(b, v) [sum] y = Add(d, x) }"""
OF_CONV = {"w": normal(4, 4, 3, 3), "c": normal(4), "v": normal(4, 4, 3, 3, seed=1)}


STORED = {"w_int8", "v_int8"}


def dequantised(graph: OnnxGraph, name: str, axis: int) -> Array:
    """A stored weight as the file's integers and scales say, by numpy."""
    integers, scale = graph.stored(f"{name}_int8"), graph.stored(f"{name}_scale")
    shape = [1] * integers.ndim
    shape[axis] = -1
    result: Array = integers.astype(np.float32) * scale.reshape(shape)
    return result


def test_the_file_computes_what_numpy_computes_with_its_integers_and_scales(tmp_path: Path) -> None:
    done, graph = quantise(layers(), tmp_path)
    x = normal(7, 16, seed=9)
    first = fake_quantise(x, graph.stored("x_scale")) @ dequantised(graph, "w", 1) + WEIGHTS["c"]
    second = fake_quantise(np.maximum(first, 0), graph.stored("d_scale")) @ dequantised(graph, "v", 0).T + WEIGHTS["e"]
    np.testing.assert_allclose(run(done.path, {"x": x})[0], second, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(graph.runner()({"x": x})[0], second, rtol=1e-4, atol=1e-4)
    assert done.differences["y"] < 0.03


def test_integers_are_two_four_and_weights_take_a_quarter(tmp_path: Path) -> None:
    done, graph = quantise(layers(), tmp_path)
    assert is_two_four(graph.stored("w_int8").T)
    assert is_two_four(graph.stored("v_int8"))
    assert {use.node for use in done.verified} == {"first", "second"}
    assert done.weight_bytes == 16 * 12 + 5 * 12 + 12 * 8 + 5 * 8
    assert done.float_bytes == 4 * (16 * 12 + 12 * 8)
    assert not {"w", "v"} & {tensor.name for tensor in graph.proto.graph.initializer}
    biases = {tensor.name: tensor.data_type for tensor in graph.proto.graph.initializer if tensor.name in {"c", "e"}}
    assert set(biases.values()) == {onnx.TensorProto.FLOAT}


def test_polygraphys_checker_agrees_on_the_integers(tmp_path: Path) -> None:
    _, graph = quantise(layers(), tmp_path)
    proto = read_integers(graph).proto
    for node in [node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in STORED]:
        floats = graph.stored(node.input[0]).astype(np.float32)  # integers, whose zeros are those of the weight
        proto.graph.initializer.append(onnx.numpy_helper.from_array(floats, node.output[0]))
        proto.graph.node.remove(node)
    pruner = SparsityPruner(proto)
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(over="ignore"):
        pruner.check()
    assert len(pruner.prune_infos) == 2
    assert set(pruner.sparse_tensors) == set(pruner.prune_infos)


def test_a_convolution_with_a_residual(tmp_path: Path) -> None:
    feeds = [{"x": normal(4, 4, 8, 8, seed=seed)} for seed in range(3)]
    done, graph = quantise(model(CONV, OF_CONV), tmp_path, feeds)
    (add,) = (node for node in graph.proto.graph.node if node.name == "sum")
    assert all("DequantizeLinear" in name for name in add.input)
    assert is_two_four(graph.stored("w_int8").transpose(0, 2, 3, 1))
    assert done.differences["y"] < 0.03
    assert set(done.float_outputs) == set()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**20), st.floats(-20, 20))
def test_outputs_stay_close_whatever_the_scale_of_the_weights(
    tmp_path_factory: pytest.TempPathFactory, seed: int, power: float
) -> None:
    weights = {**WEIGHTS, "w": normal(16, 12, seed=seed) * np.float32(2.0**power), "c": np.zeros(12, np.float32)}
    done, _ = quantise(model(LAYERS, {**weights, "e": np.zeros(8, np.float32)}), tmp_path_factory.mktemp("int8"))
    assert done.differences["y"] < 0.05


def test_scales_are_chosen_on_held_back_batches(tmp_path: Path) -> None:
    done, _ = quantise(layers(), tmp_path, FEEDS[:3], held_back=FEEDS[3:])
    assert "ranges of activations" in done.chosen
    assert NOT_CHOSEN not in done.notes


def test_without_held_back_batches_that_is_said(tmp_path: Path) -> None:
    done, _ = quantise(layers(), tmp_path)
    assert (done.chosen, done.notes) == ("", (NOT_CHOSEN,))


def test_a_glob_keeps_a_layer_in_float(tmp_path: Path) -> None:
    done, graph = quantise(layers(), tmp_path, settings=QuantiseModel(keep=("sec*",)))
    assert done.kept_in_fp32 == {"second": "kept by request (sec*)"}
    assert graph.stored("v").dtype == np.float32
    assert {use.node for use in done.verified} == {"first", "second"}


def test_an_old_opset_is_raised_in_the_copy(tmp_path: Path) -> None:
    done, graph = quantise(model(LAYERS, WEIGHTS, opset=11), tmp_path)
    assert graph.proto.opset_import[0].version == 13
    assert "opset raised from 11 to 13: DequantizeLinear per channel needs it" in done.notes


def test_an_opset_that_cannot_be_raised_is_refused_by_name(tmp_path: Path) -> None:
    proto = model(
        "g (float[N,16] x) => (float[N,12] y) { a = MatMul(x, w) y = other.Nothing(a) }",
        {"w": normal(16, 12)},
        opset=11,
        more=', "other" : 1',
    )
    path = save(proto, tmp_path)
    with pytest.raises(InputError, match=r"opset 11, INT8 needs 13|cannot load"):
        QuantiseModel().call(source=path, target=tmp_path / "int8.onnx", feeds=FEEDS)
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def test_a_weight_of_a_constant_node(tmp_path: Path) -> None:
    proto = model(LAYERS, WEIGHTS)
    tensor = next(one for one in proto.graph.initializer if one.name == "w")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    proto.graph.initializer.remove(tensor)
    _, graph = quantise(proto, tmp_path)
    assert is_two_four(graph.stored("w_int8").T)
    assert "Constant" not in {node.op_type for node in graph.proto.graph.node}


def test_large_tensors_go_beside_the_file(tmp_path: Path) -> None:
    path = save(model("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", {"w": normal(64, 64)}), tmp_path)
    feeds = [{"x": normal(8, 64)}]
    done = QuantiseModel(external_above=1000).call(source=path, target=tmp_path / "int8.onnx", feeds=feeds)
    assert (tmp_path / "int8.onnx.data").stat().st_size >= 64 * 64
    assert OnnxGraph(done.path).runner()(feeds[0])[0].shape == (8, 64)
    again = QuantiseModel(external_above=1000).call(source=done.path, target=tmp_path / "copy.onnx", feeds=feeds)
    assert not again.converted


def test_a_quantised_model_keeps_its_own_scales(tmp_path: Path) -> None:
    done, _ = quantise(layers(), tmp_path / "once")
    again = QuantiseModel().call(
        source=done.path, target=tmp_path / "twice.onnx", feeds=[], linears=linears(opened(layers(), tmp_path / "d"))
    )
    assert not again.converted
    assert again.path.read_bytes() == done.path.read_bytes()
    assert {use.node for use in again.verified} == {"first", "second"}


def test_no_calibration_samples_are_refused(tmp_path: Path) -> None:
    path = save(layers(), tmp_path)
    with pytest.raises(InputError, match="without calibration samples"):
        QuantiseModel().call(source=path, target=tmp_path / "int8.onnx", feeds=[])


def test_a_model_with_nothing_to_quantise_is_refused_with_the_reasons(tmp_path: Path) -> None:
    path = save(model("g (float[6,6] x) => (float[6,6] y) { [l] y = MatMul(w, x) }", {"w": normal(6, 6)}), tmp_path)
    with pytest.raises(InputError, match=r"can be quantised \(l: its weight is the left operand"):
        QuantiseModel().call(source=path, target=tmp_path / "int8.onnx", feeds=[{"x": normal(6, 6)}])


def test_the_source_is_never_the_target(tmp_path: Path) -> None:
    path = save(layers(), tmp_path)
    with pytest.raises(InputError, match="Expected another file"):
        QuantiseModel().call(source=path, target=path, feeds=FEEDS)


def test_feeds_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = save(layers(), tmp_path)
    with pytest.raises(InputError, match="Expected calibration data that fit the model"):
        QuantiseModel().call(source=path, target=tmp_path / "int8.onnx", feeds=[{"x": normal(4, 15)}])
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def test_a_value_that_gets_infinite_is_not_quantised(tmp_path: Path) -> None:
    text = """g (float[N,16] x) => (float[N,8] y)
      { [first] a = MatMul(x, w) b = Exp(a) [second] c = MatMul(b, v) y = Tanh(c) }"""
    proto = model(text, {"w": np.full((16, 12), 100, np.float32), "v": np.abs(normal(12, 8))})
    done, _ = quantise(proto, tmp_path, [{"x": np.repeat(np.array([[1], [-1]], np.float32), 16, 1)}])
    assert done.kept_in_fp32 == {"second": "b holds an infinity or NaN"}
