"""What the benchmark of the backend's cases says of a model: pruned, dense, refused, or a fault of ours."""

import importlib
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.graphs import model, normal

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PRODUCT = "g (float[4,K] x, float[K,8] w) => (float[4,8] y) { y = MatMul(x, w) }"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("backend_cases")


def outcome(script: Any, graph: str, arrays: dict[str, Any], folder: Path) -> tuple[str, str]:
    proto = model(graph)
    left = script.store_weights(proto, arrays)
    assert [value.name for value in proto.graph.input] == list(left)
    found = script.run_case("test_made", proto, left, folder)
    return found.kind, found.sentence


@pytest.mark.parametrize(
    ("graph", "size", "said"),
    [
        (PRODUCT.replace("K", "8"), 8, ("pruned", "1 of 1")),
        (PRODUCT.replace("K", "6"), 6, ("dense", "the reduction dimension is not a multiple of 4")),
        (PRODUCT.replace("K", "8").replace("MatMul(x, w)", "MatMul(x, w) z = Relu(y)"), 8, ("pruned", "1 of 1")),
        ("g (float[4,8] x, float[8,8] w) => (float[4,8] y) { y = Gemm<transB=1>(x, w) }", 8, ("pruned", "1 of 1")),
    ],
)
def test_a_weight_is_stored_and_pruned_or_the_reason_is_said(
    graph: str, size: int, said: tuple[str, str], script: Any, tmp_path: Path
) -> None:
    assert outcome(script, graph, {"x": normal(4, size), "w": normal(size, 8)}, tmp_path) == said


def test_a_weight_is_stored_through_what_changes_its_layout(script: Any, tmp_path: Path) -> None:
    graph = "g (float[4,8] x, float[8,8] w) => (float[4,8] y) { t = Transpose(w) y = MatMul(x, t) }"
    assert outcome(script, graph, {"x": normal(4, 8), "w": normal(8, 8)}, tmp_path) == ("pruned", "1 of 1")


def test_a_refusal_is_no_fault_and_a_fault_is_none_of_the_case(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_more: object) -> NoReturn:
        raise RuntimeError("broken")

    arrays = {"x": normal(4, 8), "w": normal(8, 8)}
    kind, sentence = outcome(script, PRODUCT.replace("K", "8").replace("MatMul", "Nonsense"), arrays, tmp_path)
    assert (kind, "ONNX Runtime cannot load MODEL" in sentence) == ("refused", True)
    monkeypatch.setattr("prox24_export.pipeline.solve", fail)
    graph = PRODUCT.replace("K", "8")
    assert outcome(script, graph, arrays, tmp_path) == ("FAILED", "RuntimeError: broken")
    monkeypatch.undo()
    monkeypatch.setattr("prox24_export.pipeline.estimate_gain", fail)  # the run ends, and names its stage
    assert outcome(script, graph, arrays, tmp_path) == ("FAILED", "estimate: RuntimeError: broken")


@pytest.mark.parametrize(("kind", "code"), [("refused", 0), ("FAILED", 1)])
def test_a_fault_is_what_the_exit_code_tells(
    kind: str, code: int, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "collect_cases", lambda: [("test_one", None, {}), ("test_two", None, {})])
    monkeypatch.setattr(script, "run_case", lambda name, *_: script.Outcome(name, kind, "why"))
    monkeypatch.setattr("sys.argv", ["backend_cases.py"])
    assert script.main() == code
    assert f"| {kind} | why | 2 | one, two |" in capsys.readouterr().out


def test_the_committed_result_holds_no_fault() -> None:
    result = json.loads((BENCHMARKS / "results" / "backend_cases.json").read_text(encoding="utf-8"))
    kinds = [row["kind"] for row in result["rows"]]
    assert len(kinds) > 150
    assert set(kinds) == {"pruned", "dense", "refused"}
