"""Awkward models that other people made, through the command, without calibration data."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from prox24_export.passes.graph.arrays import Array
from tests.command import expect_refusal, in_process, snapshot
from tests.graphs import is_two_four, normal, polygraphys_verdict

PRUNED = {
    "mnist_cntk": 2,
    "nnsplit_en": 2,
    "vttrack_old": 30,
    "ultraface_rfb320": 33,
}
NOTHING_ELIGIBLE = {
    "shufflenet-v2-12-int8": "57 × integer or quantised operator: the float weight is no longer in the file",
    "silero_vad_op18_ifless": "16 × inside an If, Loop or Scan body",
}
REFUSED = {
    "super_resolution": "opset",
    "superres_prepost_op18": "com.microsoft.extensions",
    "ppocrv3_det_en": "ONNX Runtime cannot load",
}

QUICK = ("--samples", "8", "--effort", "fast")  # what is written is looked at, and not how good it is


@pytest.fixture
def copied(request: pytest.FixtureRequest, shared_data: Path, tmp_path: Path) -> Path:
    """The model of this case in a folder of its own."""
    return Path(shutil.copy(shared_data / "edge" / f"{request.param}.onnx", tmp_path / "model.onnx"))


def table(names: Mapping[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("copied", "expected"), names.items(), ids=list(names), indirect=["copied"])


def random_feeds(session: ort.InferenceSession) -> dict[str, Array]:
    feeds = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else (1 if axis == 0 else 32) for axis, size in enumerate(value.shape)]
        array = normal(*shape)
        feeds[value.name] = array if value.type == "tensor(float)" else np.abs(50 * array).astype(np.uint8)
    return feeds


def name_of(node: onnx.NodeProto) -> str:
    """A node's name, or what the report calls a node without one."""
    return node.name or f"{node.op_type}:{node.output[0]}"


def weights_as_multiplied(path: Path, nodes: set[str]) -> dict[str, tuple[onnx.NodeProto, Array]]:
    """By node name: the node, and its weight as it arrives there, computed by ONNX Runtime where it is computed."""
    proto = onnx.load(path)
    chosen = {name_of(node): node for node in proto.graph.node if name_of(node) in nodes}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    computed = sorted({node.input[1] for node in chosen.values()} - stored.keys())
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    if computed:
        stored |= dict(zip(computed, session.run(computed, random_feeds(session)), strict=True))
    return {name: (node, stored[node.input[1]]) for name, node in chosen.items()}


def groups_along_k(node: onnx.NodeProto, weight: Array) -> Array:
    """The weight with its reduction axis last (for Conv: C_in)."""
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight if transposed else weight.T


@table(PRUNED)
def test_a_real_model_is_pruned_verified_and_runs(copied: Path, expected: int, tmp_path: Path, capfd: Any) -> None:
    before = snapshot(tmp_path)
    outcome = in_process(copied.name, "-o", "out", *QUICK, folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert f"; {expected} of {expected} prunable layers" in outcome.stdout.splitlines()[0]
    assert before.items() <= snapshot(tmp_path).items()

    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    sparse = {layer["name"] for layer in report["layers"] if layer["state"] == "sparse"}
    written = tmp_path / "out" / "model.onnx"
    found = weights_as_multiplied(written, sparse)
    assert found.keys() == sparse
    assert all(is_two_four(groups_along_k(node, weight)) for node, weight in found.values())
    dense = weights_as_multiplied(copied, sparse)
    assert not all(is_two_four(groups_along_k(node, weight)) for node, weight in dense.values())

    weights = {layer["weight"] for layer in report["layers"] if layer["state"] == "sparse"}
    looked_at, called_sparse = polygraphys_verdict(onnx.load(written))
    assert looked_at & weights, "Polygraphy sees no weight behind a Reshape or a Constant, but some of these"
    assert looked_at & weights <= called_sparse
    onnx.checker.check_model(written)
    session = ort.InferenceSession(written, providers=["CPUExecutionProvider"])
    outputs = session.run(None, random_feeds(session))
    assert all(np.isfinite(output).all() for output in outputs)


@table(NOTHING_ELIGIBLE)
def test_a_real_model_without_an_eligible_layer_is_copied_byte_for_byte(
    copied: Path, expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path)
    outcome = in_process(copied.name, "-o", "out", folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("nothing eligible")
    assert expected in outcome.stdout
    assert (tmp_path / "out" / "model.onnx").read_bytes() == copied.read_bytes()
    assert before.items() <= snapshot(tmp_path).items()
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["layers"]
    assert all(layer["state"] == "dense" and layer["reason"] for layer in report["layers"])


@table(REFUSED)
def test_a_real_model_that_onnx_runtime_cannot_load_is_refused_in_one_sentence(
    copied: Path, expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path)
    outcome = in_process(copied.name, "-o", "out", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert expected in outcome.stderr
    assert not re.search(r"\.(cc|cpp|h|py)\b", outcome.stderr), "a library's source path"


@pytest.mark.parametrize("copied", [*PRUNED, *NOTHING_ELIGIBLE, *REFUSED], indirect=True)
def test_inspect_lists_the_layers_or_refuses_in_one_sentence(copied: Path, tmp_path: Path, capfd: Any) -> None:
    before = snapshot(tmp_path)
    outcome = in_process("inspect", copied.name, "--format", "json", folder=tmp_path, capture=capfd)
    if outcome.code == 0:
        rows = json.loads(outcome.stdout)
        assert rows
        assert all((row["state"] == "dense") == bool(row["reason"]) for row in rows)
        assert snapshot(tmp_path) == before
    else:
        expect_refusal(outcome, 2, before, tmp_path)
