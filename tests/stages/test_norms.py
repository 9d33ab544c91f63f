"""Baselines that read no Gram matrix make none where it would be large, and prune to the same weights without it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export import Settings, export
from prox24_export.passes.calibrate.moments import Moments
from prox24_export.stages import norms
from tests.graphs import model, normal, save

GRAPH = (
    "g (float[N,16] x) => (float[N,8] y) { a = MatMul(x, u) b = Relu(a) c = MatMul(b, v) d = Relu(c) y = MatMul(d, w) }"
)
WEIGHTS = {"u": normal(16, 32), "v": normal(32, 64, seed=1), "w": normal(64, 8, seed=2)}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of the Gram matrices that are made."""
    widths: list[int] = []
    make = Moments.zeros

    def note(columns: int, *, with_gram: bool = True, **more: Any) -> Moments:
        widths.extend([columns] if with_gram else [])
        return make(columns, with_gram=with_gram, **more)

    monkeypatch.setattr(Moments, "zeros", note)
    return widths


def pruned(folder: Path, out: str, method: Any) -> tuple[dict[str, Any], list[float | None]]:
    x = normal(40, 16)
    settings = Settings(method=method, engine="none", permute="no")
    report = export(folder / "dense.onnx", [{"x": x}], folder / out, settings=settings)
    stored = onnx.load(folder / out / "model.onnx").graph.initializer
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}
    return weights, [layer.relative_error for layer in report.sparse_layers]


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_wide_layers_are_pruned_to_the_same_weights_without_a_gram_matrix(
    method: str, tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(model(GRAPH, WEIGHTS), tmp_path)
    weights, errors = pruned(tmp_path, "with", method)
    assert {16, 32, 64} == set(made)
    assert None not in errors
    made.clear()
    monkeypatch.setattr(norms, "WIDEST_MEASURED", 16)
    same, fewer = pruned(tmp_path, "without", method)
    assert set(made) == {16}
    assert fewer == [errors[0], None, None]
    assert all(np.array_equal(weights[name], same[name]) for name in WEIGHTS)


@pytest.mark.parametrize("method", ["prox", "sparsegpt"])
def test_methods_that_read_the_matrix_get_it_at_any_width(
    method: str, tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "WIDEST_MEASURED", 16)
    save(model(GRAPH, WEIGHTS), tmp_path)
    _, errors = pruned(tmp_path, "out", method)
    assert {16, 32, 64} == set(made)
    assert None not in errors


def test_a_wide_weight_that_is_sparse_already_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "WIDEST_MEASURED", 4)
    sparse = normal(16, 32).reshape(4, 4, 32)
    sparse[:, :2] = 0
    save(model("g (float[N,16] x) => (float[N,32] y) { y = MatMul(x, u) }", {"u": sparse.reshape(16, 32)}), tmp_path)
    report = export(
        tmp_path / "dense.onnx",
        [{"x": normal(40, 16)}],
        tmp_path / "out",
        settings=Settings(method="magnitude", engine="none"),
    )
    assert report.layers[0].status == "the weight was 2:4 already"
    stored = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(stored[0]), sparse.reshape(16, 32))
