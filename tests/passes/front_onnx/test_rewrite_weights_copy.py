"""A model that nothing is pruned in: its copy computes what it does, whatever its external data are called."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.rewrite_weights import RewriteWeights
from tests.graphs import model, normal, run, save

TEXT = "g (float[n,400] x) => (float[n,400] y) { a = Add(x, u) b = Mul(a, v) y = Add(b, w) }"
REPORT_FILES = ("report.json", "report.html", "summary.md", "junit.xml", "DEPLOY.md", "model.onnx", "dense.onnx")


def source(folder: Path, places: tuple[tuple[str, int], ...]) -> Path:
    """A model whose three tensors lie at these places, in files as small as that."""
    proto = model(TEXT, {})
    for seed, (name, (location, offset)) in enumerate(zip("uvw", places, strict=True)):
        array = normal(400, seed=seed)
        tensor = proto.graph.initializer.add(name=name, dims=[400], data_type=1, data_location=1)
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=value)
        path = folder / location
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes(before.ljust(offset, b"\0")[:offset] + array.tobytes() + before[offset + array.nbytes :])
    return save(proto, folder)


def copied(path: Path, folder: Path) -> Path:
    """The copy, after the run has written its reports, and whatever else could have these names."""
    folder.mkdir()
    written = RewriteWeights().call(graph=OnnxGraph(path), weights={}, folder=folder).path
    for name in REPORT_FILES:
        if folder / name != written:
            (folder / name).write_text("of the run")
    (folder / "engines").mkdir(exist_ok=True)
    (folder / "engines" / "sparse.engine").write_text("of the run")
    return written


@pytest.mark.parametrize(
    "places",
    [
        (("a.bin", 0), ("a.bin", 1600), ("b.bin", 4096)),
        (("deep/er/a.bin", 64), ("deep/b", 0), ("weights", 0)),
        (("model.onnx.data", 0), ("model.onnx.data", 1600), ("model.onnx_data", 0)),
        (("report.json.bin", 0), ("of/engines", 0), ("REPORT", 0)),
    ],
)
def test_a_copy_beside_copies_of_its_data_is_a_copy_byte_for_byte(
    places: tuple[tuple[str, int], ...], tmp_path: Path
) -> None:
    path = source(tmp_path / "in", places)
    written = copied(path, tmp_path / "out")
    assert written.read_bytes() == path.read_bytes()
    for location, _ in places:
        assert (tmp_path / "out" / location).read_bytes() == (tmp_path / "in" / location).read_bytes()
    feeds = {"x": normal(2, 400, seed=9)}
    assert np.array_equal(run(written, feeds)[0], run(path, feeds)[0])


@pytest.mark.parametrize(
    "places",
    [
        *[((name, 0), ("b.bin", 0), (name, 1600)) for name in (*REPORT_FILES[:-1], "Report.JSON", "notes.txt")],
        (("engines/sparse.engine", 0), ("Engines/a.bin", 0), ("c.bin", 0)),
        (("a.bin", 0), ("A.bin", 0), ("a.BIN", 0)),
        (("a/../report.json", 0), ("a/b.bin", 0), ("b.bin", 0)),
        (("./a.bin", 0), ("a.bin", 1600), ("a/../b.bin", 0)),
    ],
)
def test_data_whose_names_cannot_stay_get_a_name_of_our_own(
    places: tuple[tuple[str, int], ...], tmp_path: Path
) -> None:
    path = source(tmp_path / "in", places)
    feeds = {"x": normal(2, 400, seed=9)}
    expected = run(path, feeds)[0]
    written = copied(path, tmp_path / "out")
    proto = onnx.load(written, load_external_data=False)
    assert {entry.value for tensor in proto.graph.initializer for entry in tensor.external_data[:1]} == {
        "model.onnx.data"
    }
    assert np.array_equal(run(written, feeds)[0], expected)


def test_data_in_the_model_file_itself_are_found_there_again(tmp_path: Path) -> None:
    """The first bytes of a file are hardly ever weights, but they are what this model computes with."""
    proto = model("g (float[n,4] x) => (int32[n,4] y) { c = Cast<to = 6>(x) y = Add(c, w) }", {})
    tensor = proto.graph.initializer.add(name="w", dims=[4], data_type=6, data_location=1)
    tensor.external_data.add(key="location", value="dense.onnx")
    path = save(proto, tmp_path / "in")
    feeds = {"x": np.zeros((1, 4), np.float32)}
    expected = run(path, feeds)[0]
    assert np.array_equal(run(copied(path, tmp_path / "out"), feeds)[0], expected)
