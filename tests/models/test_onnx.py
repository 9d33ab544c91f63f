"""ONNX files through the command: what is written computes what it should, or nothing is written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.command import command, expect_refusal, in_process, snapshot
from tests.graphs import model, normal, run, save

WEIGHTS = {"w": normal(8, 16), "v": normal(16, 8)}
TEXT = "g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
QUICK = ("--method", "magnitude", "--engine", "none")


def with_external_data(folder: Path, location: str, text: str = TEXT) -> Path:
    """A model whose weights lie one behind the other in one file."""
    proto = model(text, {})
    data = b""
    for name, array in WEIGHTS.items():
        tensor = proto.graph.initializer.add(name=name, dims=array.shape, data_type=1, data_location=1)
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="offset", value=str(len(data)))
        data += array.tobytes()
    path = save(proto, folder, "net.onnx")
    (folder / location).write_bytes(data)
    return path


def test_a_report_never_overwrites_the_data_of_the_copy(tmp_path: Path, capfd: Any) -> None:
    """Nothing is eligible, so the model is copied, beside a report of the name that its data have."""
    text = "g (float[8,16] x) => (float[8,16] y) { a = Add(x, w) b = Transpose(a) c = Mul(b, v) y = Transpose(c) }"
    path = with_external_data(tmp_path, "report.json", text)
    expected = run(path, {"x": normal(8, 16)})[0]
    outcome = in_process("net.onnx", "-o", "out", *QUICK, folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["tool"] == "prox24-export"
    assert np.array_equal(run(tmp_path / "out" / "model.onnx", {"x": normal(8, 16)})[0], expected)


def test_data_with_several_hard_links_are_pruned_like_any_other(tmp_path: Path, capfd: Any) -> None:
    with_external_data(tmp_path, "weights.bin")
    os.link(tmp_path / "weights.bin", tmp_path / "store")
    outcome = in_process("net.onnx", "-o", "out", *QUICK, folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome
    assert outcome.stdout.startswith("2 of 2 linear layers are 2:4 sparse (256 weights, verified)")
    written = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in written}
    for name, dense in WEIGHTS.items():
        assert np.count_nonzero(stored[name]) == dense.size // 2
        assert np.array_equal(stored[name][stored[name] != 0], dense[stored[name] != 0])


def test_a_sparse_initializer_is_left_dense_counted_and_called_what_it_is(tmp_path: Path) -> None:
    """In a process of its own, where a library's warnings would reach the user."""
    proto = model("g (float[n,8] x) => (float[n,4] y) { a = MatMul(x, w) y = MatMul(a, v) }", {"v": normal(16, 4)})
    parts = onnx.numpy_helper.from_array(normal(9), "w"), onnx.numpy_helper.from_array(np.arange(9), "places")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(*parts, [8, 16]))
    save(proto, tmp_path, "net.onnx")
    outcome = command("net.onnx", "-o", "out", *QUICK, folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "dense: 1 × the weight is stored as a sparse_initializer" in outcome.stdout
    assert "estimate: 33.3 % of the linear layers' operations are in sparse layers, at most 1.20" in outcome.stdout


@pytest.mark.parametrize("given", [True, False])
def test_minus_one_is_an_axis_that_samples_run_along(*, given: bool, tmp_path: Path, capfd: Any) -> None:
    proto = model(TEXT, WEIGHTS)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    save(proto, tmp_path, "net.onnx")
    np.savez(tmp_path / "c.npz", x=normal(40, 8))
    data = ("--calibration", "c.npz") if given else ()
    outcome = in_process("net.onnx", *data, "-o", "out", *QUICK, folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome
    found = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["data"]
    assert found["fit"] + found["choice"] + found["report"] == (40 if given else 32)


HOSTILE: dict[str, Callable[[onnx.ModelProto], None]] = {
    "an axis of an input": lambda proto: setattr(proto.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -7),
    "a size of a weight": lambda proto: proto.graph.initializer[0].dims.__setitem__(0, -8),
    "more than is stored": lambda proto: proto.graph.initializer[0].dims.__setitem__(0, 1 << 50),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("options", [("-o", "out"), ("--plan",)])
def test_impossible_sizes_end_in_one_sentence(case: str, options: tuple[str, ...], tmp_path: Path, capfd: Any) -> None:
    proto = model(TEXT, WEIGHTS)
    HOSTILE[case](proto)
    save(proto, tmp_path, "net.onnx")
    before = snapshot(tmp_path)
    expect_refusal(in_process("net.onnx", *options, folder=tmp_path, capture=capfd), 2, before, tmp_path)
