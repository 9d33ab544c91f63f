"""What is expected of a model's file before anything else reads it."""

from pathlib import Path

import onnx
import onnx.helper as make
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.read_model import blame_invalid_model
from tests.graphs import model, normal, save

WAY_OUT = r"convert_sklearn\(…, options=\{'zipmap': False\}\)\.$"


def classifier(name: str, *, listed: bool) -> onnx.ModelProto:
    """A linear classifier as skl2onnx writes it: its probabilities are a sequence of maps, or one map here."""
    graph = "g (float[N,8] x) => (float[N,4] p) { s = MatMul(x, w) p = Softmax(s) }"
    proto = model(graph, {"w": normal(8, 4)}, more=', "ai.onnx.ml" : 1')
    zipmap = make.make_node("ZipMap", ["p"], ["named"], name, domain="ai.onnx.ml", classlabels_int64s=range(4))
    proto.graph.node.append(zipmap)
    kind = make.make_map_type_proto(onnx.TensorProto.INT64, make.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    proto.graph.output.add(name="named", type=make.make_sequence_type_proto(kind) if listed else kind)
    return proto


@pytest.mark.parametrize(
    ("name", "said"), [("ZipMap", "node ZipMap"), ("", "node without a name")], ids=["named", "nameless"]
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_map_is_refused_with_its_node_and_the_way_out(name: str, said: str, listed: bool, tmp_path: Path) -> None:
    path = save(classifier(name, listed=listed), tmp_path)
    with pytest.raises(InputError, match=rf"dense.onnx: 'named', which {said} \(ZipMap\) makes, is a map.*{WAY_OUT}"):
        OnnxGraph(path)


def test_an_input_that_is_a_map_is_refused_too(tmp_path: Path) -> None:
    proto = model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(8, 4)})
    value = make.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    proto.graph.input.add(name="words", type=make.make_map_type_proto(onnx.TensorProto.STRING, value))
    with pytest.raises(InputError, match="'words' is a map"):
        OnnxGraph(save(proto, tmp_path))


def test_a_tensor_of_more_axes_than_arrays_have_is_refused(tmp_path: Path) -> None:
    proto = model("g (float[N,8] x) => (float[N,4] p) { p = MatMul(x, w) }", {"w": normal(8, 4)})
    proto.graph.initializer[0].dims[:] = [*([1] * 63), 8, 4]
    with pytest.raises(InputError, match=r"'w' of .* has 65 axes. Expected at most 64"):
        OnnxGraph(save(proto, tmp_path))


def test_a_fault_that_the_model_explains_is_put_down_to_it(tmp_path: Path) -> None:
    proto = model("g (float[N,8] x) => (float[N,4] p) { p = MatMul(x, w) }", {"w": normal(8, 4)})
    proto.graph.node[0].input[0] = "gone"
    path = save(proto, tmp_path)
    with pytest.raises(InputError, match="is not a valid ONNX model: "), blame_invalid_model(proto, path):
        raise ZeroDivisionError


def test_a_fault_that_no_model_explains_stays_one(tmp_path: Path) -> None:
    path = save(model("g (float[N,8] x) => (float[N,4] p) { p = MatMul(x, w) }", {"w": normal(8, 4)}), tmp_path)
    with pytest.raises(ZeroDivisionError), blame_invalid_model(onnx.load(path), path):
        raise ZeroDivisionError
