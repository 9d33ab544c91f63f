"""ONNX files: what of them is read, hashed, and never deleted."""

import hashlib
from pathlib import Path

import onnx
import pytest

from prox24_export import Settings, export, pipeline
from prox24_export.errors import InputError
from prox24_export.models.onnx import OnnxFile
from tests import graphs
from tests.command import network, samples, snapshot

MAGNITUDE = Settings(method="magnitude")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A model whose weights lie in `weights/data` beside it."""
    model = onnx.load(network(tmp_path, hidden=512))
    (tmp_path / "weights").mkdir()
    place = tmp_path / "net.onnx"
    onnx.save(model, place, save_as_external_data=True, location="weights/data", size_threshold=0)
    return place


def test_the_digest_is_of_the_file_and_of_all_its_external_data(split: Path) -> None:
    folder = split.parent
    report = export(split, samples(folder), folder / "out", settings=MAGNITUDE)
    data = (folder / "weights" / "data").read_bytes()
    assert report.input.bytes == split.stat().st_size + len(data)
    assert report.input.sha256 == hashlib.sha256(split.read_bytes() + b"weights/data" + data).hexdigest()
    written = [(folder / "out" / name).read_bytes() for name in ("model.onnx", "model.onnx.data")]
    assert report.output.sha256 == hashlib.sha256(written[0] + b"model.onnx.data" + written[1]).hexdigest()


def test_the_digest_is_also_of_data_that_only_a_folded_weight_comes_from(tmp_path: Path) -> None:
    text = "g (float[N,16] x) => (float[N,8] y) { v = Mul(w, s) y = MatMul(x, v) }"
    place = tmp_path / "net.onnx"
    proto = graphs.model(text, {"w": graphs.normal(16, 8), "s": graphs.normal(8)})
    onnx.save(proto, place, save_as_external_data=True, location="data", size_threshold=0)
    frontend = OnnxFile(place)
    graph = frontend.open()
    assert not (graph.stored("v") == graphs.normal(16, 8)).all()
    assert frontend.files(graph) == {"": place, "data": tmp_path / "data"}


def test_external_data_that_change_during_the_run_are_an_error(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = getattr(pipeline, "write_model")  # noqa: B009 - the pipeline exports its own functions alone

    def change(*arguments: object) -> object:
        written = work(*arguments)
        with (split.parent / "weights" / "data").open("r+b") as data:
            data.write(b"\x01")
        return written

    monkeypatch.setattr(pipeline, "write_model", change)
    with pytest.raises(InputError, match=r"weights/data was changed while it was read"):
        export(split, samples(split.parent), split.parent / "out", settings=MAGNITUDE)
    assert not (split.parent / "out").exists()


def test_force_never_deletes_the_models_own_external_data(split: Path) -> None:
    folder = split.parent
    export(network(folder / "weights"), samples(folder), folder / "out", settings=MAGNITUDE)
    (folder / "weights" / "data").replace(folder / "out" / "model.onnx.data")
    report = (folder / "out" / "report.json").read_text("utf-8")
    (folder / "out" / "report.json").write_text(
        report.replace('"model.onnx",', '"model.onnx", "model.onnx.data",'), "utf-8"
    )
    model = onnx.load(split, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "out/model.onnx.data" if entry.key == "location" else entry.value
    split.write_bytes(model.SerializeToString())
    before = snapshot(folder)
    with pytest.raises(InputError, match=r"out/model\.onnx\.data, which is read, lies inside the output folder"):
        export(split, samples(folder), folder / "out", settings=Settings(method="magnitude", force=True))
    assert snapshot(folder) == before
