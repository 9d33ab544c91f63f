"""An ONNX file as the passes see it: inputs, constants, segments with every kind of stored tensor."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input
from tests.graphs import Walk, found, linears, model, normal, opened, run, save


def external(name: str, array: Array, folder: Path) -> onnx.TensorProto:
    """A tensor that lies in a file of its own."""
    tensor = numpy_helper.from_array(array, name)
    (folder / f"{name}.bin").write_bytes(array.tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=f"{name}.bin")
    return tensor


def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [tensor.name], value=tensor)


def test_inputs_are_what_must_be_fed_with_their_types_and_sizes(tmp_path: Path) -> None:
    text = "g (float16[n,3,m] a, int64[] b, uint8[2] c, float[8,8] w) => (float[2] y) { y = Cast<to = 1>(c) }"
    assert opened(model(text, {"w": normal(8, 8)}), tmp_path).inputs == (
        Input("a", np.dtype(np.float16), ("n", 3, "m")),
        Input("b", np.dtype(np.int64), None),
        Input("c", np.dtype(np.uint8), (2,)),
    )


def test_minus_one_is_a_dynamic_axis_as_it_is_to_onnx_runtime(tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    graph = opened(proto, tmp_path)
    assert graph.inputs == (Input("x", np.dtype(np.float32), (None, 8)),)
    feeds = {"x": normal(5, 8)}
    assert np.array_equal(graph.runner()(feeds)[0], run(proto, feeds)[0])


@pytest.mark.parametrize("size", [-2, -(1 << 62)])
def test_every_other_negative_size_of_an_input_is_refused(size: int, tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    with pytest.raises(InputError, match=rf"^input 'x' has the shape \[{size}, 8\]\. Expected"):
        _ = opened(proto, tmp_path).inputs


def test_a_sparse_initializer_with_external_parts_runs_in_segments(tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }")
    dense = normal(64)
    dense[::2] = 0
    places = np.flatnonzero(dense)
    parts = external("w", dense[places], tmp_path), external("places", places, tmp_path)
    sparse = onnx.SparseTensorProto(values=parts[0], indices=parts[1], dims=[8, 8])
    proto.graph.sparse_initializer.append(sparse)
    graph = opened(proto, tmp_path)
    feeds = {"x": normal(3, 8)}
    segment = graph.compile(graph.nodes, feeds, ["y"], {})
    np.testing.assert_allclose(segment(feeds)["y"], feeds["x"] @ dense.reshape(8, 8), rtol=1e-5, atol=1e-6)


def test_names_with_a_nul_byte_are_names(tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)})
    node = proto.graph.node[0]
    node.name = "n\0"
    proto.graph.input[0].name = node.input[0] = "x\0"
    proto.graph.initializer[0].name = node.input[1] = "w\0"
    proto.graph.output[0].name = node.output[0] = "y\0"
    graph = opened(proto, tmp_path)
    (layer,) = linears(graph)
    assert (layer.name, layer.weight) == ("n\0", "w\0")
    feeds = {"x\0": normal(3, 8)}
    np.testing.assert_array_equal(graph.runner()(feeds)[0], run(proto, feeds)[0])


def test_a_message_that_is_no_text_is_told_without_printing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)})
    path = save(proto, tmp_path)
    path.write_bytes(path.read_bytes().replace(b"MatMul", b"Mat\xff\xfe\xfd"))
    with pytest.raises(InputError, match="ONNX Runtime cannot load"):
        _ = OnnxGraph(path, proto).inputs
    assert capsys.readouterr() == ("", "")


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    proto = model("g (seq(float[2]) s) => (float[2] y) { y = ConcatFromSequence<axis = 0>(s) }")
    with pytest.raises(InputError, match="input 's' is a sequence_type; only tensors can be fed"):
        _ = opened(proto, tmp_path).inputs


def test_what_depends_on_no_input_is_constant_but_not_what_is_drawn(tmp_path: Path) -> None:
    text = """g (float[2,8] x) => (float[2,8] y) {
        a = Exp(w) b = Add(a, w) c = RandomNormal<shape = [2, 8]>() d = Add(c, b) e = Add(d, x)
        f = local.Noise(w) y = Add(e, f) }"""
    proto = model(text, {"w": normal(2, 8)}, more=', "local" : 1')
    body = '<domain: "local", opset_import: ["" : 17]> Noise (a) => (r) { r = RandomNormalLike(a) }'
    proto.functions.append(onnx.parser.parse_function(body))
    graph = opened(proto, tmp_path)
    assert graph.constants == {"w", "a", "b"}
    assert [node.outputs[0] for node in graph.nodes] == ["c", "d", "e", "f", "y"]


def test_a_node_reads_what_its_bodies_capture(tmp_path: Path) -> None:
    text = """g (float[2] x, bool c) => (float[2] y) {
        a = Relu(x) b = Tanh(x)
        y = If(c) <then_branch = t () => (float[2] k) {
                       k = If(c) <then_branch = p () => (float[2] i) { i = Add(a, x) },
                                  else_branch = q () => (float[2] j) { j = Neg(b) }> },
                   else_branch = e () => (float[2] l) { l = Abs(x) }> }"""
    (node,) = [node for node in opened(model(text), tmp_path).nodes if node.op == "If"]
    assert set(node.inputs) == {"c", "a", "b", "x"}


TABLES = {
    "Gather": ("y = Gather(big, i)", 50),
    "Gather behind Cast": ("j = Cast<to = 6>(i) y = Gather(big, j)", 50),
    "the smaller of two tables": ("p = Gather(big, i) q = Gather(small, i) y = Add(p, q)", 20),
    "along another axis": ("t = Transpose(big) r = Gather<axis = 1>(wide, i) y = Transpose(r)", 30),
    "Constant table": ("k = Constant<value = float[2,4] {1,2,3,4,5,6,7,8}>() y = Gather(k, i)", 2),
    "no table": ("y = Cast<to = 1>(i)", None),
}


@pytest.mark.parametrize("case", TABLES)
def test_rows_of_the_table_that_an_input_indexes(case: str, tmp_path: Path) -> None:
    body, expected = TABLES[case]
    tables = {"big": normal(50, 4), "small": normal(20, 4), "wide": normal(4, 30)}
    graph = opened(model(f"g (int64[n] i) => (float[n,4] y) {{ {body} }}", tables), tmp_path)
    assert graph.gathered_rows.get("i") == expected


def test_parameters_are_all_stored_floats(tmp_path: Path) -> None:
    text = """g (float[2,8] x) => (float[2,8] y) {
        k = Constant<value = float[2] {1, 2}>() y = MatMul(x, w) z = Gather(k, i) }"""
    assert opened(model(text, {"w": normal(8, 8), "i": np.array([1, 0])}), tmp_path).parameters == 66


@pytest.mark.parametrize("place", ["initializer", "Constant", "subgraph initializer", "subgraph Constant", "function"])
def test_segments_hold_external_data_wherever_it_stands(place: str, tmp_path: Path) -> None:
    stored, other = external("k", normal(8, 8, seed=4), tmp_path), normal(8, 8)
    text = "g (float[n,8] x) => (float[n,8] y) { a = Sub(x, x) b = Add(a, a) y = MatMul(b, w) }"
    proto = model(text, {"w": other}, more=', "local" : 1')
    adding = helper.make_node("MatMul", ["x", "k"], ["b"])
    if place == "function":
        opsets = [helper.make_opsetid("", 17)]
        proto.functions.append(helper.make_function("local", "F", ["x"], ["b"], [constant(stored), adding], opsets))
        proto.graph.node[1].CopyFrom(helper.make_node("F", ["x"], ["b"], domain="local"))
    elif place.startswith("subgraph"):
        adding.output[0] = "o"
        is_constant = place.endswith("Constant")
        out = [helper.make_tensor_value_info("o", 1, None)]
        nodes, tensors = ([constant(stored), adding], []) if is_constant else ([adding], [stored])
        then = helper.make_graph(nodes, "t", [], out, tensors)
        other_branch = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "e", [], out)
        yes = numpy_helper.from_array(np.array(True), "yes")
        proto.graph.initializer.append(yes)
        proto.graph.node[1].CopyFrom(helper.make_node("If", ["yes"], ["b"], then_branch=then, else_branch=other_branch))
    else:
        proto.graph.node[1].CopyFrom(adding)
        if place == "Constant":
            proto.graph.node.insert(0, constant(stored))
        else:
            proto.graph.initializer.append(stored)
    x = normal(3, 8)
    walk = Walk(opened(proto, tmp_path), [{"x": x}])
    last = walk.seen["MatMul:y"].fit
    k = normal(8, 8, seed=4)
    if place in {"initializer", "Constant"}:
        k = walk.weights["k"]
        assert np.count_nonzero(k) == 32
    np.testing.assert_allclose(last.gram.numpy(), (x @ k).T @ (x @ k), rtol=1e-4, atol=1e-3)


def test_segments_hold_sparse_initializers(tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { a = Add(x, s) y = MatMul(a, w) }", {"w": normal(8, 8)})
    values = numpy_helper.from_array(np.array([3, 4], np.float32), "s")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 5])), [8])
    )
    x = normal(3, 8)
    a = x + np.array([0, 3, 0, 0, 0, 4, 0, 0], np.float32)
    seen = Walk(opened(proto, tmp_path), [{"x": x}]).seen["MatMul:y"].fit
    np.testing.assert_allclose(seen.gram.numpy(), a.T @ a, rtol=1e-5, atol=1e-5)


def test_the_input_file_is_not_touched(tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, u) y = MatMul(a, u) }", {"u": normal(8, 8)})
    path = save(proto, tmp_path)
    before = path.read_bytes()
    walk = Walk(OnnxGraph(path), [{"x": normal(3, 8)}])
    assert path.read_bytes() == before
    assert walk.graph.proto.SerializeToString() == before
    assert np.array_equal(walk.graph.stored("u"), normal(8, 8))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such model"), (b"", "holds no graph"), (b"not a model", "cannot be read as an ONNX model")],
)
def test_what_is_no_model_is_refused_in_one_sentence(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        OnnxGraph(path)
    assert "\n" not in str(error.value)


def test_a_model_from_before_operator_sets_is_refused(tmp_path: Path) -> None:
    proto = model("g (float[2,8] x) => (float[2,8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)})
    del proto.opset_import[:]
    with pytest.raises(InputError, match="declares no opset"):
        opened(proto, tmp_path)


def test_what_onnx_runtime_cannot_load_is_refused_in_one_sentence(tmp_path: Path) -> None:
    graph = opened(model("g (float[2] x) => (float[2] y) { y = Unheard(x) }"), tmp_path)
    with pytest.raises(InputError, match=r"ONNX Runtime cannot load .*Unheard") as error:
        graph.session()
    assert "\n" not in str(error.value)


def test_the_session_is_the_whole_model(tmp_path: Path) -> None:
    proto = model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, u) }", {"u": normal(8, 8)})
    x = normal(3, 8)
    np.testing.assert_array_equal(opened(proto, tmp_path).session().run(None, {"x": x})[0], run(proto, {"x": x})[0])


def test_a_solved_matrix_is_rounded_to_what_is_stored_and_its_zeros_are_positive(tmp_path: Path) -> None:
    proto = model("g (float16[n,8] x) => (float16[n,4] y) { y = MatMul(x, u) }", {"u": normal(8, 4, dtype=np.float16)})
    graph = opened(proto, tmp_path)
    (linear,) = linears(graph)
    matrix = graph.weight(linear)
    assert matrix.dtype.is_floating_point
    matrix[0, :3] = matrix.new_tensor([-0.0, -1e-12, 1.0 + 2**-12])
    stored = linear.to_stored(matrix)
    assert (str(stored.dtype), stored.shape) == ("float16", (8, 4))
    assert stored[:3, 0].view(np.uint16).tolist() == [0, 0, 0x3C00]


def test_nodes_that_read_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { b = Relu(a) a = Tanh(b) v = Add(a, x) y = MatMul(v, w) }"
    graph = opened(model(text, {"w": normal(8, 8)}), tmp_path)
    with pytest.raises(InputError, match=r"dense.onnx is not a valid ONNX model: .* circle, (Relu:b|Tanh:a) → "):
        found(graph)
