"""Models with much external data: large tensors stay in their files, and everything is computed as before."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import executable, mapped_tensors, runtime
from prox24_export.passes.front_onnx.fed_session import open_fed_session
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import map_file
from tests.graphs import model, normal

TEXT = "g (float[n,64] x) => (float[n,32] y) { h = MatMul(x, w) r = Relu(h) y = Gemm(r, v, b) }"
WEIGHTS = {"w": normal(64, 96), "v": normal(96, 32, seed=1), "b": normal(32, seed=2)}
X = normal(5, 64, seed=3)


def save_external(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    return path


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tensors, "STREAMED_ABOVE", 1)
    monkeypatch.setattr(mapped_tensors, "LARGE", 1024)


def test_large_tensors_are_fed_and_small_ones_are_constants(tmp_path: Path) -> None:
    graph = OnnxGraph(save_external(model(TEXT, WEIGHTS), tmp_path))
    assert set(graph.executable.mapped) == {"w", "v"}
    (y,) = graph.runner()({"x": X})
    wide = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    expected = np.maximum(X.astype(np.float64) @ wide["w"], 0) @ wide["v"] + wide["b"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-3)


def test_a_part_computes_bit_by_bit_what_the_whole_does(tmp_path: Path) -> None:
    graph = OnnxGraph(save_external(model(TEXT, WEIGHTS), tmp_path))
    (whole,) = graph.runner()({"x": X})
    first, *rest = graph.nodes
    h = graph.compile([first], {"x": X}, ["h"], {})({"x": X})
    y = graph.compile(rest, h, ["y"], {})(h)["y"]
    np.testing.assert_array_equal(y, whole)


def test_solved_weights_replace_what_the_file_holds(tmp_path: Path) -> None:
    graph = OnnxGraph(save_external(model(TEXT, WEIGHTS), tmp_path))
    new = {"w": np.zeros((64, 96), np.float32)}
    y = graph.compile(graph.nodes, {"x": X}, ["y"], new)({"x": X})["y"]
    np.testing.assert_allclose(y, np.tile(WEIGHTS["b"], (5, 1)), rtol=1e-6)


def test_a_file_that_becomes_shorter_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    graph = OnnxGraph(save_external(model(TEXT, WEIGHTS), tmp_path))
    run = graph.runner()
    part = graph.compile(graph.nodes, {"x": X}, ["y"], {})
    run({"x": X})
    part({"x": X})
    os.truncate(tmp_path / "weights.data", 100)
    for read in (run, part):
        with pytest.raises(
            InputError, match=r"weights\.data became shorter while they were read: from [\d,]+ to 100 b"
        ):
            read({"x": X})
    with pytest.raises(InputError, match="the file holds 100"):
        graph.stored("w")
    (tmp_path / "weights.data").unlink()
    with pytest.raises(InputError, match="no such external data"):
        run({"x": X})


def test_a_part_of_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(10))
    with pytest.raises(InputError, match="short was changed while it was read"):
        map_file(tmp_path / "short", np.dtype(np.float32), [4])


def with_narrow_weights(kind: int, name: str) -> onnx.ModelProto:
    """The model in another type, with the input and the output in float32."""
    import ml_dtypes  # noqa: PLC0415 - of this one

    dtype = np.dtype({"bfloat16": ml_dtypes.bfloat16}.get(name, name))
    text = (
        f"g (float[n,64] x) => (float[n,32] y) {{ a = Cast<to = {kind}>(x) h = MatMul(a, w) r = Relu(h) "
        "z = MatMul(r, v) y = Cast<to = 1>(z) }"
    )
    proto = model(text, {})
    for key in ("w", "v"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS[key].astype(dtype), key))
    return proto


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (onnx.TensorProto.FLOAT16, "float16"),
        (onnx.TensorProto.BFLOAT16, "bfloat16"),
        (onnx.TensorProto.DOUBLE, "float64"),
    ],
)
def test_other_types_stay_in_their_files_too(
    kind: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_external(with_narrow_weights(kind, name), tmp_path)
    graph = OnnxGraph(path)
    assert set(graph.executable.mapped) == {"w", "v"}
    (mapped,) = graph.runner()({"x": X})
    stored = graph.stored("w")
    assert stored.dtype.name == name
    new = {"w": np.ascontiguousarray(stored[:, ::-1])}
    turned = graph.compile(graph.nodes, {"x": X}, ["y"], new)({"x": X})["y"]
    monkeypatch.setattr(mapped_tensors, "STREAMED_ABOVE", 1 << 40)
    whole = OnnxGraph(path)
    assert whole.executable.mapped == {}
    np.testing.assert_allclose(mapped, whole.runner()({"x": X})[0], rtol=1e-4, atol=1e-3)
    expected = whole.compile(whole.nodes, {"x": X}, ["y"], new)({"x": X})["y"]
    np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-3)


def test_what_is_written_into_a_stored_tensor_reaches_neither_file_nor_other_readers(tmp_path: Path) -> None:
    graph = OnnxGraph(save_external(model(TEXT, WEIGHTS), tmp_path))
    before = (tmp_path / "weights.data").read_bytes()
    graph.stored("w")[:] = 7
    np.testing.assert_array_equal(graph.stored("w"), WEIGHTS["w"])
    assert (tmp_path / "weights.data").read_bytes() == before


def test_a_model_that_wants_constants_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> runtime.Session:
        raise RuntimeError("weights must be constant")

    monkeypatch.setattr(executable, "open_fed_session", refuse)
    graph = OnnxGraph(save_external(model(TEXT, WEIGHTS), tmp_path))
    (y,) = graph.runner()({"x": X})
    assert y.shape == (5, 32)
    assert graph.executable.mapped == {}


def test_a_model_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    text = TEXT.replace("Relu(h)", "Nonsense(h)")
    graph = OnnxGraph(save_external(model(text, WEIGHTS), tmp_path))
    with pytest.raises(InputError, match=r"ONNX Runtime cannot load .*model\.onnx: .*Nonsense"):
        graph.runner()


def test_a_tensor_that_is_an_output_too_is_not_fed(tmp_path: Path) -> None:
    text = TEXT.replace("(float[n,32] y)", "(float[n,32] y, float[64,96] w)")
    graph = OnnxGraph(save_external(model(text, WEIGHTS), tmp_path))
    assert set(graph.executable.mapped) == {"v"}
    _, w = graph.runner()({"x": X})
    np.testing.assert_array_equal(w, WEIGHTS["w"])


def test_few_bytes_of_external_data_are_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tensors, "STREAMED_ABOVE", 1 << 20)
    assert OnnxGraph(save_external(model(TEXT, WEIGHTS), tmp_path)).executable.mapped == {}


def test_nodes_of_functions_and_branches_are_run_in_the_same_way(tmp_path: Path) -> None:
    text = (
        "g (float[n,64] x, bool c) => (float[n,32] y) { h = MatMul(x, w) y = If(c) "
        "<then_branch = t () => (float[n,32] a) { a = MatMul(h, v) }, "
        "else_branch = e () => (float[n,32] z) { d = MatMul(h, v) z = Neg(d) }> }"
    )
    graph = OnnxGraph(save_external(model(text, {key: WEIGHTS[key] for key in ("w", "v")}), tmp_path))
    feeds = {"x": X, "c": np.array(True)}
    expanded = graph.expand(feeds)
    assert set(expanded.executable.mapped) == set(graph.executable.mapped) == {"w", "v"}
    np.testing.assert_array_equal(expanded.runner()(feeds)[0], graph.runner()(feeds)[0])


def test_fed_tensors_may_be_none() -> None:
    proto = model("g (float[n] x) => (float[n] y) { y = Abs(x) }")
    (y,) = open_fed_session(proto, {}, widens=True).run(None, {"x": np.array([-1.0], np.float32)})
    assert y.tolist() == [1.0]
