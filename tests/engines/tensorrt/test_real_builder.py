"""What we emit goes through a real NVIDIA builder without a warning, and each linear layer is found in its engine.

The libraries are those of TensorRT for RTX; without them these tests skip. What the harness refuses is tried with
libraries that a C compiler makes.
"""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from prox24_export import Settings, export
from prox24_export.engines.diagnosis import builder_log
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.lower import LowerPrecision
from prox24_export.passes.precision.types import LowPrecisionName
from prox24_export.shapes import ShapeRange
from tests.engines.tensorrt.real_builder import library
from tests.engines.tensorrt.real_builder.build import (
    VARIABLE,
    WHEEL,
    NoLibrariesError,
    RealBuilderError,
    RealEngine,
    build,
    find_libraries,
    find_linear_nodes,
)
from tests.engines.tensorrt.real_builder.layers import Int8Use, find_int8_uses, find_product
from tests.graphs import model, normal, rewritten, save

SAMPLE = Path(__file__).resolve().parents[3] / "samples" / "digits" / "digits_vit.onnx"
PRECISIONS: tuple[LowPrecisionName, ...] = ("fp16", "bf16")
PRODUCT = "g (float16[N,8] x) => (float16[N,4] y) { [mul] y = MatMul(x, w) }"
HALF = {"w": normal(8, 4, dtype=np.float16)}


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """The smallest file with a product; the test is skipped where there is no builder."""
    try:
        find_libraries()
    except NoLibrariesError as error:
        pytest.skip(str(error))
    return save(model(PRODUCT, HALF), tmp_path, "product.onnx")


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_sample_is_built_for_a_range_of_batches(precision: LowPrecisionName, tmp_path: Path) -> None:
    settings = Settings(method="magnitude", refine="no", permute="no", samples=16, engine="none", precision=precision)
    assert export(SAMPLE, out=tmp_path / "out", settings=settings).faults == ()
    nodes = find_linear_nodes(tmp_path / "out" / "model.onnx")
    shapes = {"image": ShapeRange(*((size, 1, 8, 8) for size in (1, 8, 32)))}
    engine = build(tmp_path / "out" / "engines" / f"sparse.{precision}.onnx", shapes=shapes)
    assert len(nodes) == 17
    assert engine.find_faults(nodes) == []
    word = {"fp16": "Half", "bf16": "BFloat16"}[precision]
    products = [find_product(engine.layers, node) for node in nodes]
    assert all(layer is not None and word in layer.reads and word in layer.stores for layer in products)
    assert {layer.kind for layer in products if layer is not None} == {"gemm", "runtime_fusion"}


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["mnist_cntk", "vttrack_old"])
def test_edge_files_are_built(name: str, precision: LowPrecisionName, shared_data: Path, tmp_path: Path) -> None:
    sparse = rewritten(OnnxGraph(shared_data / "edge" / f"{name}.onnx"), tmp_path / "sparse")
    lowered = LowerPrecision(precision).call(source=sparse, target=tmp_path / "low.onnx", feeds=[])
    nodes = find_linear_nodes(sparse)
    assert nodes
    assert build(lowered.path).find_faults(nodes) == []


GRAPHS: dict[str, tuple[str, Mapping[str, Array]]] = {
    "a transposed weight and a bias": (
        "g (float[N,8] x) => (float[N,4] y) { [a] y = Gemm<transB = 1>(x, w, b) }",
        {"w": normal(4, 8), "b": normal(4)},
    ),
    "a weight behind a Transpose": (
        "g (float[N,8] x) => (float[N,4] y) { t = Transpose<perm = [1, 0]>(w) [a] y = MatMul(x, t) }",
        {"w": normal(4, 8)},
    ),
    "one weight, two uses": (
        "g (float[N,8] x) => (float[N,8] y) { [a] u = MatMul(x, w) v = Relu(u) [b] y = MatMul(v, w) }",
        {"w": normal(8, 8)},
    ),
    "convolutions with groups and strides": (
        (
            "g (float[N,8,9,9] x) => (float[N,8,3,3] y) { u = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w) "
            "v = Relu(u) [a] y = Conv<strides = [3, 3]>(v, z) }"
        ),
        {"w": normal(8, 4, 3, 3), "z": normal(8, 8, 1, 1)},
    ),
    "a root mean square norm": (
        (
            "g (float[N,8] x) => (float[N,4] y) { p = Mul(x, x) m = ReduceMean<axes = [1]>(p) e = Add(m, c) "
            "s = Sqrt(e) u = Div(x, s) [a] y = MatMul(u, w) }"
        ),
        {"w": normal(8, 4), "c": np.array(1e-3, np.float32)},
    ),
    "activations that the parser takes in few types": (
        "g (float[N,8] x) => (float[N,4] y) { [a] u = MatMul(x, v) h = HardSwish(u) [b] y = MatMul(h, w) }",
        {"v": normal(8, 8), "w": normal(8, 4)},
    ),
    "rows in a stack": (
        "g (float[N,5,8] x) => (float[N,5,4] y) { [a] u = MatMul(x, v) s = Softmax(u) [b] y = MatMul(s, w) }",
        {"v": normal(8, 8), "w": normal(8, 4)},
    ),
}


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_every_layout_are_built(name: str, precision: LowPrecisionName, tmp_path: Path) -> None:
    text, weights = GRAPHS[name]
    source = save(model(text, weights), tmp_path)
    lowered = LowerPrecision(precision).call(source=source, target=tmp_path / "low.onnx", feeds=[])
    nodes = find_linear_nodes(source)
    assert nodes == [name for name in ("a", "b") if f"[{name}]" in text]
    assert build(lowered.path).find_faults(nodes) == []


QUANTISED = """g (float[N,64] x) => (float[N,64] y) {
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z) [first] a = MatMul(d, v)
    r = QuantizeLinear(a, s, z) e = DequantizeLinear(r, s, z) [second] b = MatMul(e, v) [float] y = MatMul(b, f) }"""


def test_a_quantised_file_runs_in_int8_where_its_quantisers_say_so(product: Path, tmp_path: Path) -> None:
    integers = (20 * normal(64, 64)).clip(-127, 127).astype(np.int8)
    weights: dict[str, Array] = {
        "w": integers,
        "s": np.array(0.05, np.float32),
        "z": np.array(0, np.int8),
        "f": normal(64, 64),
    }
    engine = build(save(model(QUANTISED, weights), tmp_path, "quantised.onnx"))
    assert engine.find_faults(["first", "second", "float"]) == []
    uses = find_int8_uses(engine.layers, ["first", "second", "float", "absent"])
    assert [(use.reads, use.stores, use.writes) for use in uses.values()] == [
        (True, True, True),
        (True, True, False),
        (False, False, False),
        (False, False, False),
    ]
    assert [use.is_whole for use in uses.values()] == [True, False, False, False]
    assert uses["absent"] == Int8Use()
    assert not any(use.reads for use in find_int8_uses(build(product).layers, ["mul"]).values())


def change_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "NoSuchOperator"


def change_weight(proto: onnx.ModelProto) -> None:
    """Its reduction dimension is not the activation's any more."""
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(normal(6, 4, dtype=np.float16), "w"))


def change_type(proto: onnx.ModelProto) -> None:
    """A strongly typed network does not multiply float16 by float32."""
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(normal(8, 4), "w"))


@pytest.mark.parametrize("spoil", [change_operator, change_weight, change_type])
def test_a_planted_bad_file_is_found(spoil: Callable[[onnx.ModelProto], None], product: Path) -> None:
    assert build(product).find_faults(["mul"]) == []
    proto = onnx.load(product)
    spoil(proto)
    onnx.save(proto, product)
    engine = build(product)
    faults = engine.find_faults(["mul"])
    assert engine.errors
    assert "no engine was built" in faults
    assert "no layer of the engine names mul" in faults


def test_a_layer_that_is_in_no_engine_is_found(product: Path) -> None:
    assert build(product).find_faults(["mul", "other"]) == ["no layer of the engine names other"]


def test_a_warning_is_a_fault_and_a_notice_of_64_bit_inputs_is_none(product: Path, tmp_path: Path) -> None:
    del product
    graph = "g (int64[N] i) => (float16[N,4] y) { r = Gather(t, i) [mul] y = MatMul(r, w) }"
    engine = build(save(model(graph, HALF | {"t": normal(9, 8, dtype=np.float16)}), tmp_path, "rows.onnx"))
    assert engine.find_faults(["mul"]) == []
    assert len(engine.notices) == 1
    text, weights = GRAPHS["a root mean square norm"]
    low = {name: array.astype(np.float16) for name, array in weights.items()}
    engine = build(save(model(text.replace("float[", "float16["), low), tmp_path, "norm.onnx"))
    assert engine.plan_bytes
    assert any("Detected layernorm nodes in FP16" in fault for fault in engine.find_faults())


def test_shapes_and_devices_that_do_not_fit_are_refused(product: Path) -> None:
    with pytest.raises(RealBuilderError, match="shapes were given for z, which is no input of the model"):
        build(product, shapes={"z": ShapeRange((1, 8), (1, 8), (1, 8))})
    with pytest.raises(RealBuilderError, match=r"compute capability 9\.0 is none of those"):
        build(product, compute_capability=90)
    assert build(product, shapes={"x": ShapeRange((1, 7), (1, 7), (1, 7))}).plan_bytes == 0
    assert build(product, compute_capability=120, sparse_weights=True).find_faults(["mul"]) == []


def test_the_real_log_is_verbose_and_says_nothing_of_sparsity(product: Path) -> None:
    engine = build(product, sparse_weights=True)
    for log in (builder_log.parse(engine.log), builder_log.parse_messages([text for _, text in engine.messages])):
        assert log.is_verbose
        assert log.registered["mul"] == "mul"
        assert (log.eligible, log.chosen, log.problems, log.warnings) == (None, None, (), ())


def test_the_plan_is_the_same_with_sparse_tactics_allowed_or_not(tmp_path: Path, product: Path) -> None:
    """As `docs/engines.md` says: nothing about sparse kernels can be seen here."""
    del product
    matrix = normal(256, 256, dtype=np.float16)
    matrix[1::4] = matrix[2::4] = 0
    graph = "g (float16[64,256] x) => (float16[64,256] y) { y = MatMul(x, w) }"
    file = save(model(graph, {"w": matrix}), tmp_path, "sparse.onnx")
    digests = {build(file, sparse_weights=allowed, compute_capability=86).plan_digest for allowed in (True, False)}
    assert len(digests) == 1
    assert "" not in digests
    assert build(file, compute_capability=89).plan_digest not in digests, "another engine has another digest"


def test_ci_fetches_the_wheel_whose_version_is_known() -> None:
    assert f" {WHEEL} " in (SAMPLE.parents[2] / ".ci" / "run").read_text(encoding="utf-8")


def test_without_the_variable_or_the_libraries_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(NoLibrariesError, match=f"set {VARIABLE} to the folder"):
        find_libraries()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(NoLibrariesError, match=rf"lacks {library.BUILDER} and {library.PARSER}\. Unpack onnxruntime-"):
        find_libraries()


def test_libraries_of_another_version_are_refused_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "libtensorrt_rtx.so.1.8.0").touch()
    with pytest.raises(RealBuilderError, match=r"expected version 1\.7\.1 .*, found libtensorrt_rtx\.so\.1\.8\.0"):
        find_libraries()


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as that of the libraries."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return save(model(PRODUCT, HALF), tmp_path, "product.onnx")


def compile_libraries(folder: Path, version: int, body: str) -> None:
    """Makes both libraries: a version, and what making a builder does."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    code = f"""#include <signal.h>
        #include <unistd.h>
        int getInferLibVersion(void) {{ return {version}; }}
        void* createInferBuilder_INTERNAL(void* logger, int version) {{ {body} return 0; }}"""
    for name in (library.BUILDER, library.PARSER):
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / name)]
        subprocess.run(command, input=code, text=True, check=True)


Case = tuple[int, str, str]
CASES: dict[Literal["version", "crash", "time", "nothing"], Case] = {
    "version": (10800, "", r"did not try product\.onnx: libtensorrt_rtx\.so\.1\.7\.1 says that it is version 1\.8\.0"),
    "crash": (10701, "raise(SIGSEGV);", r"crashed on product\.onnx: SIGSEGV"),
    "time": (10701, "sleep(60);", r"took more than 1 s for product\.onnx and was ended"),
    "nothing": (10701, "", "createInferBuilder_INTERNAL made no object"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_wrong_in_the_process_is_one_clear_error(
    name: Literal["version", "crash", "time", "nothing"], compiled: Path
) -> None:
    version, body, said = CASES[name]
    compile_libraries(compiled.parent, version, body)
    with pytest.raises(RealBuilderError, match=said):
        build(compiled, limit=1 if name == "time" else 60)


def test_files_that_are_no_libraries_are_told(compiled: Path) -> None:
    for name in (library.BUILDER, library.PARSER):
        (compiled.parent / name).write_bytes(b"no library")
    with pytest.raises(RealBuilderError, match="the libraries cannot be opened"):
        build(compiled)


def test_an_engine_without_messages_has_no_fault_but_its_absence() -> None:
    assert RealEngine(0, "", (), ()).find_faults() == ["no engine was built"]
