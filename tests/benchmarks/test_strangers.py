"""What the benchmark of models of strangers finds wrong: missing layers, weights that nobody lists, dead ends."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.graphs import model, normal, save

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PRODUCT = "g (float[n,8] x) => (float[n,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
WEIGHTS = {"w": normal(8, 16), "v": normal(16, 8, seed=1)}


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("strangers_checks")


def judged(checks: Any, folder: Path, *, text: str = PRODUCT, width: int = 8, modules: Any = WEIGHTS) -> Any:
    path = save(model(text, WEIGHTS), folder)
    np.savez(folder / "samples.npz", x=normal(16, width))
    sizes = {name: array.size for name, array in modules.items()}
    return checks.judge(checks.Case("made", "by hand", path, folder / "samples.npz", sizes))


def test_a_model_that_is_pruned_and_verified_is_right(checks: Any, tmp_path: Path) -> None:
    outcome = judged(checks, tmp_path)
    assert (outcome.kind, outcome.layers, outcome.pruned, outcome.verified) == ("pruned", 2, 2, True)
    assert list(outcome.faults) == []
    assert "output y: " in outcome.line


def test_a_module_that_is_no_layer_is_a_fault(checks: Any, tmp_path: Path) -> None:
    outcome = judged(checks, tmp_path, modules=WEIGHTS | {"u": normal(96)})
    assert list(outcome.faults) == ["1 of 1 weights of 96 entries are no layer: u", "3 modules are 2 layers"]


def test_a_sentence_with_a_way_out_is_right_and_one_without_is_a_fault(checks: Any, tmp_path: Path) -> None:
    outcome = judged(checks, tmp_path, width=5)
    assert (outcome.kind, list(outcome.faults)) == ("refused", []), outcome.line
    outcome = judged(checks, tmp_path, text=PRODUCT.replace("Relu", "Nonsense"))
    assert (outcome.kind, list(outcome.faults)) == ("refused", ["names no way out"])
    assert "Nonsense" in outcome.line


@pytest.mark.parametrize(
    ("body", "listed", "unlisted"),
    [
        ("h = MatMul(x, w) y = MatMul(h, v)", {"w", "v"}, []),
        ("h = MatMul(x, w) y = MatMul(h, v)", {"v"}, ["w of MatMul  is no layer"]),
        ("c = Neg(w) h = MatMul(x, c) y = MatMul(h, v)", {"v"}, ["w of MatMul  is no layer"]),
        ("c = Neg(w) h = MatMul(x, c) y = MatMul(h, v)", {"v", "MatMul:h"}, []),
        ("h = MatMul(x, w) c = Transpose(v) d = Transpose(c) y = MatMul(h, d)", {"w", "v"}, []),
        ("h = MatMul(x, w) s = ReduceSum(v) y = Add(h, s)", {"w"}, []),
    ],
)
def test_a_large_initializer_that_a_product_reads_is_listed(
    body: str, listed: set[str], unlisted: list[str], checks: Any, tmp_path: Path
) -> None:
    path = save(model(f"g (float[n,8] x) => (float[n,M] y) {{ {body} }}", WEIGHTS), tmp_path)
    assert list(checks.find_unlisted(path, listed)) == unlisted


def test_a_large_dense_weight_needs_a_reason_that_helps(checks: Any) -> None:
    def layer(reason: str, share: float = 0.5) -> SimpleNamespace:
        return SimpleNamespace(name="n", state="dense", share=share, reason=reason)

    unhelpful = [layer("because"), layer("the weight is not a constant of the model")]
    helpful = [
        layer("because", share=0.005),
        layer("the reduction dimension is not a multiple of 4 (K = 6)"),
        layer("the weight is computed from constants by Selu: fold constants first"),
    ]
    assert [said.partition(": ")[2] for said in checks.find_unhelpful([*unhelpful, *helpful])] == [
        "because",
        "the weight is not a constant of the model",
    ]
