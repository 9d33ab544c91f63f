"""Only the weights change: everything else of the file is compared with what it was."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.rewrite_weights import EXTERNAL_DATA, RewriteWeights
from prox24_export.passes.front_onnx.tensors import find_model_tensors
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.verify_pattern import VerifyPattern
from tests.graphs import BF16, is_two_four, linears, magnitude, model, normal, opened, pruned, rewritten, run, save

TWO = "g (float[n,8] x) => (float[n,8] y) { [first] a = MatMul(x, u) [second] y = Gemm<transB = 1>(a, v) }"


def two() -> onnx.ModelProto:
    return model(TWO, {"u": normal(8, 16), "v": normal(8, 16, seed=1)})


def without(proto: onnx.ModelProto, *weights: str) -> onnx.ModelProto:
    """A copy that has lost the values of some tensors, and where they stood."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for name, tensor in find_model_tensors(copy):
        if name in weights:
            for field in ("raw_data", "float_data", "int32_data", "double_data", "external_data", "data_location"):
                tensor.ClearField(field)
    return copy


def rich() -> onnx.ModelProto:
    """A model with a little of everything that a careless tool loses."""
    text = """agraph (float[n,8] x, float[8,16] u) => (float[n,8] y, float[k] z) {
        [first] a = MatMul(x, u)
        [noise] b = local.Scale(a)
        [second] c = Gemm<transB = 1>(b, v)
        d = com.microsoft.Gelu(c)
        [choice] y = If(yes) <then_branch = t () => (float[n,8] p) { p = Add(d, d) },
                              else_branch = e () => (float[n,8] q) { q = Identity(d) }>
        z = Cast<to = 1>(numbers) }"""
    proto = model(text, {"u": normal(8, 16)}, more=', "com.microsoft" : 1, "local" : 3, "ai.onnx.ml" : 3')
    body = """<domain: "local", opset_import: ["" : 17]> Scale (a) => (r) {
        k = Constant<value = float {0.5}>() r = Mul(a, k) }"""
    proto.functions.append(onnx.parser.parse_function(body))
    typed = helper.make_tensor("v", onnx.TensorProto.FLOAT, [8, 16], normal(8, 16, seed=1).ravel())
    names = numpy_helper.from_array(np.array(["cat", "dog"], object), "names")
    many = helper.make_tensor("numbers", onnx.TensorProto.INT64, [200], list(range(200)))
    yes = numpy_helper.from_array(np.array(True), "yes")
    for tensor in (typed, names, many, yes):
        tensor.doc_string = f"doc of {tensor.name}"
    proto.graph.initializer.extend([typed, names, many, yes])
    proto.graph.initializer.append(numpy_helper.from_array(normal(30, 20, seed=7), "unused"))
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version = "maker", "1.2", "a.domain", 7
    proto.doc_string, proto.graph.doc_string = "of the model", "of the graph"
    helper.set_model_props(proto, {"author": "somebody", "classes": "['cat', 'dog']"})
    proto.graph.value_info.append(helper.make_tensor_value_info("a", 1, ["n", 16]))
    proto.graph.node[0].doc_string = "of a node"
    proto.graph.node[0].metadata_props.add(key="namespace", value="block.0")
    proto.graph.quantization_annotation.add(tensor_name="a")
    return proto


def test_nothing_but_the_weights_changes(tmp_path: Path) -> None:
    proto = rich()
    path = rewritten(opened(proto, tmp_path), tmp_path / "out")
    written = onnx.load(path)
    assert without(written, "u", "v") == without(proto, "u", "v")
    assert without(written, "u") != without(proto, "u")
    stored = {tensor.name: tensor for tensor in written.graph.initializer}
    assert len(stored["v"].float_data) == 0, "the dense values must not stay beside the sparse ones"
    onnx.checker.check_model(written)
    x = normal(3, 8)
    dense, sparse = run(proto, {"x": x}), run(path, {"x": x})
    assert dense[0].shape == sparse[0].shape
    assert not np.array_equal(dense[0], sparse[0])
    assert np.array_equal(dense[1], sparse[1])


def test_nothing_but_the_place_of_tensors_changes_where_they_are_external(tmp_path: Path) -> None:
    proto = rich()
    path = rewritten(opened(proto, tmp_path), tmp_path / "out", external_above=0)
    moved = onnx.load(path, load_external_data=False)
    outside = {name for name, tensor in find_model_tensors(moved) if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert outside == {"numbers", "unused"}, "small tensors stay in the file, pruned ones too"
    assert not any(tensor.int64_data for tensor in moved.graph.initializer), "values must not stand in both places"
    loaded = onnx.load(path)
    for name, before in {name: t for name, t in find_model_tensors(proto) if name not in {"u", "v"}}.items():
        after = next(tensor for other, tensor in find_model_tensors(loaded) if other == name)
        assert np.array_equal(numpy_helper.to_array(after), numpy_helper.to_array(before)), name
        assert after.doc_string == before.doc_string
    names = ("u", "v", "numbers", "unused")
    stripped, original = without(loaded, *names), without(proto, *names)
    for tensor in (*stripped.graph.initializer, *original.graph.initializer):
        tensor.ClearField("int64_data")
    assert stripped == original
    sparse = OnnxGraph(path)
    assert all(not check.violations for check in VerifyPattern().call(graph=sparse, linears=linears(sparse)).uses)
    assert np.array_equal(sparse.stored("u"), magnitude(opened(proto, tmp_path), linears(sparse)[0]))
    x = normal(3, 8)
    np.testing.assert_array_equal(
        run(path, {"x": x})[0], run(rewritten(opened(proto, tmp_path), tmp_path), {"x": x})[0]
    )


def test_the_dense_weight_is_gone_from_the_bytes(tmp_path: Path) -> None:
    proto = two()
    for folder, settings in ((tmp_path / "inline", {}), (tmp_path / "external", {"external_above": 0})):
        rewritten(opened(proto, tmp_path), folder, **settings)
        content = b"".join(path.read_bytes() for path in folder.iterdir())
        for array in (normal(8, 16), normal(8, 16, seed=1)):
            row = array[0].tobytes()
            assert row in save(proto, tmp_path).read_bytes()
            assert row not in content
    source, written = (tmp_path / "dense.onnx").stat().st_size, (tmp_path / "inline" / "model.onnx").stat().st_size
    assert written == source, "zeros replace values; nothing is added"


def test_pruned_entries_are_positive_zeros(tmp_path: Path) -> None:
    graph = OnnxGraph(rewritten(opened(two(), tmp_path), tmp_path / "out"))
    for name in "uv":
        stored = graph.stored(name)
        assert int((stored == 0).sum()) == stored.size // 2
        assert not stored[stored == 0].view(np.uint32).any()


TYPES: dict[str, np.dtype[np.generic]] = {
    "float": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": BF16,
    "double": np.dtype(np.float64),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("external_above", [0, 10**9])
def test_every_float_type_keeps_its_type_and_the_values_of_the_survivors(
    kind: str, external_above: int, tmp_path: Path
) -> None:
    dense = normal(32, 40).astype(TYPES[kind])
    text = f"g ({kind}[n,32] x) => ({kind}[n,40] y) {{ y = MatMul(x, w) }}"
    graph = opened(model(text, {"w": dense}, opset=22, ir=10), tmp_path)
    path = rewritten(graph, tmp_path / "out", external_above=external_above)
    assert (path.parent / EXTERNAL_DATA).exists() == (external_above == 0)
    stored = OnnxGraph(path).stored("w")
    assert stored.dtype == TYPES[kind]
    assert is_two_four(stored.T)
    kept = stored != 0
    assert int(kept.sum()) == dense.size // 2
    assert np.array_equal(stored[kept], dense[kept])
    onnx.checker.check_model(str(path))


BEHIND: dict[str, tuple[str, dict[str, Array]]] = {
    "Transpose": ("v = Transpose(w) y = MatMul(x, v)", {"w": normal(12, 8)}),
    "Reshape and Transpose": (
        "a = Transpose<perm = [2, 0, 1]>(w) b = Reshape(a, s) y = MatMul(x, b)",
        {"w": normal(3, 4, 8), "s": np.array([8, 12])},
    ),
    "QDQ": (
        "q = QuantizeLinear(w, s, z) v = DequantizeLinear(q, s, z) y = MatMul(x, v)",
        {"w": normal(8, 12), "s": np.array(0.05, np.float32), "z": np.array(128, np.uint8)},
    ),
    "QDQ per channel": (
        "q = QuantizeLinear<axis = 1>(w, s, z) v = DequantizeLinear<axis = 1>(q, s, z) y = MatMul(x, v)",
        {"w": normal(8, 12), "s": np.linspace(0.01, 0.05, 12, dtype=np.float32), "z": np.zeros(12, np.int8)},
    ),
    "Cast": ("v = Cast<to = 1>(w) y = MatMul(x, v)", {"w": normal(8, 12, dtype=np.float16)}),
    "Gemm, transA": ("t = Transpose(x) y = Gemm<transA = 1>(t, w)", {"w": normal(8, 12)}),
    "left": ("t = Transpose(x) r = MatMul(w, t) y = Transpose(r)", {"w": normal(12, 8)}),
    "leading 1": ("r = MatMul(x, w) y = Squeeze(r, zero)", {"w": normal(1, 8, 12), "zero": np.array([0])}),
}


@pytest.mark.parametrize("case", BEHIND)
def test_what_the_node_multiplies_by_is_two_four_wherever_the_weight_stands(case: str, tmp_path: Path) -> None:
    body, weights = BEHIND[case]
    proto = model(f"g (float[n,8] x) => (float[n,12] y) {{ {body} }}", weights)
    path = rewritten(opened(proto, tmp_path), tmp_path / "out")
    (product,) = run(path, {"x": np.eye(8, dtype=np.float32)})  # the effective weight [K, N], by ONNX Runtime itself
    assert is_two_four(product.T + np.float32(0))
    assert np.count_nonzero(product) > 30
    written = onnx.load(path)
    assert without(written, "w") == without(proto, "w")


def test_a_shared_weight_stays_one_tensor_right_for_both_uses(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,8] y) {
        t = Transpose(w) a = Gemm<transB = 1>(x, w) b = Relu(a) y = MatMul(b, t) }"""
    proto = model(text, {"w": normal(8, 8)})
    path = rewritten(opened(proto, tmp_path), tmp_path / "out")
    written = onnx.load(path)
    assert [tensor.name for tensor in written.graph.initializer] == ["w"]
    assert without(written, "w") == without(proto, "w")
    sparse = OnnxGraph(path)
    assert [check.violations for check in VerifyPattern().call(graph=sparse, linears=linears(sparse)).uses] == [0, 0]


@pytest.mark.parametrize("external_above", [0, 10**9])
def test_a_weight_in_a_constant_node_is_replaced_there(external_above: int, tmp_path: Path) -> None:
    dense = normal(32, 40)
    proto = model("g (float[n,32] x) => (float[n,40] y) { y = MatMul(x, w) }")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(dense)))
    path = rewritten(opened(proto, tmp_path), tmp_path / "out", external_above=external_above)
    assert without(onnx.load(path), "w") == without(proto, "w")
    (product,) = run(path, {"x": np.eye(32, dtype=np.float32)})
    assert is_two_four(product.T.copy())
    assert np.array_equal(product[product != 0], dense[product != 0])


def test_a_weight_of_the_same_name_in_a_body_is_another_weight(tmp_path: Path) -> None:
    text = """g (float[n,8] x, bool c) => (float[n,8] y) { a = MatMul(x, u)
        y = If(c) <then_branch = t () => (float[n,8] p) { w = Constant<value = float[1] {3.0}>() p = Mul(a, w) },
                   else_branch = e () => (float[n,8] q) { q = Identity(a) }> }"""
    proto = model(text, {"u": normal(8, 8)})
    (body,) = [attribute.g for attribute in proto.graph.node[1].attribute if attribute.name == "then_branch"]
    body.node[0].output[0] = body.node[1].input[1] = "u"  # shadows the weight inside the branch
    graph = opened(proto, tmp_path)
    (tmp_path / "out").mkdir()
    path = RewriteWeights().call(graph=graph, weights=pruned(graph), folder=tmp_path / "out").path
    assert without(onnx.load(path), "u") == without(proto, "u")
    (kept,) = [attribute.g for attribute in onnx.load(path).graph.node[1].attribute if attribute.name == "then_branch"]
    assert kept.node[0] == body.node[0]


def external_source(folder: Path, size_threshold: int = 0) -> Path:
    folder.mkdir()
    text = "g (float[n,32] x) => (float[n,40] y) { a = MatMul(x, u) b = Add(a, bias) y = MatMul(b, v) }"
    proto = model(text, {"u": normal(32, 8), "v": normal(8, 40, seed=1), "bias": normal(8)})
    path = folder / "big.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="big.weights", size_threshold=size_threshold)
    return path


def test_a_source_with_external_data_becomes_one_with_external_data(tmp_path: Path) -> None:
    path = external_source(tmp_path / "in")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    graph = OnnxGraph(path)
    written = rewritten(graph, tmp_path / "out")
    assert {file.name for file in written.parent.iterdir()} == {"model.onnx", EXTERNAL_DATA}
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    sparse = OnnxGraph(written)
    for layer in linears(graph):
        assert np.array_equal(sparse.stored(layer.weight), magnitude(graph, layer))
    assert np.array_equal(sparse.stored("bias"), normal(8))
    onnx.checker.check_model(str(written))
    assert run(written, {"x": normal(2, 32)})[0].shape == (2, 40)
    offsets = [
        int(entry.value)
        for _, tensor in find_model_tensors(sparse.proto)
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert offsets == [0, 4096] or all(offset % 4096 == 0 for offset in offsets)
    assert len(set(offsets)) == 2


def test_an_unchanged_copy_brings_its_external_data_along_byte_for_byte(tmp_path: Path) -> None:
    path = external_source(tmp_path / "in")
    (tmp_path / "out").mkdir()
    written = RewriteWeights().call(graph=OnnxGraph(path), weights={}, folder=tmp_path / "out").path
    assert written.read_bytes() == path.read_bytes()
    assert (tmp_path / "out" / "big.weights").read_bytes() == (tmp_path / "in" / "big.weights").read_bytes()
    assert run(written, {"x": normal(2, 32)})[0].shape == (2, 40)


def test_packed_four_bit_tensors_keep_their_bytes_when_they_move(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) z = DequantizeLinear(nibbles, s) }"
    values = np.arange(4096) % 16 - 8
    proto = model(text, {"w": normal(8, 8), "s": np.array(1, np.float32)}, opset=21, ir=10)
    proto.graph.initializer.append(helper.make_tensor("nibbles", onnx.TensorProto.INT4, [4096], values))
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, [4096]))
    path = rewritten(opened(proto, tmp_path), tmp_path / "out", external_above=0)
    assert (path.parent / EXTERNAL_DATA).stat().st_size == 2048
    assert np.array_equal(run(path, {"x": normal(1, 8)})[1], values)


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    graph = opened(rich(), tmp_path)
    for settings in ({}, {"external_above": 0}):
        one, other = (rewritten(graph, tmp_path / name, **settings) for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()
