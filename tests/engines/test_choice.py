"""Which engine is chosen, and what is refused before any work."""

from typing import Any

import pytest

from prox24_export.engines import choice
from prox24_export.engines.torch_sparse import measure as torch_sparse
from prox24_export.errors import InputError, UnavailableError
from prox24_export.passes.emit_engine import tensorrt
from prox24_export.passes.emit_engine.tensorrt import Availability

HERE = Availability(True, "1.0", "a GPU", sparse=True)
MISSING = Availability(False, reason="it is not here.", remedy="Install it.")


def chosen(
    monkeypatch: pytest.MonkeyPatch, trt: Availability, torch: Availability, *, has_onnx: bool = True, **options: Any
) -> choice.EngineChoice:
    monkeypatch.setattr(tensorrt, "availability", lambda: trt)
    monkeypatch.setattr(torch_sparse, "availability", lambda: torch)
    return choice.choose_engine(choice.EngineRequest(**options), has_onnx=has_onnx)


@pytest.mark.parametrize(
    ("trt", "torch", "has_onnx", "expected"),
    [
        (HERE, HERE, True, "tensorrt"),
        (HERE, HERE, False, "torch"),
        (MISSING, HERE, True, "torch"),
        (HERE, MISSING, False, "none"),
        (MISSING, MISSING, True, "none"),
    ],
)
def test_auto_takes_the_best_there_is(
    monkeypatch: pytest.MonkeyPatch, trt: Availability, torch: Availability, *, has_onnx: bool, expected: str
) -> None:
    found = chosen(monkeypatch, trt, torch, has_onnx=has_onnx)
    assert found.engine == expected
    assert bool(found.why_not) == (expected == "none")
    assert found.precision == "fp16"
    assert not found.writes_files


def test_auto_says_what_neither_can(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Availability(False, reason="there is no GPU.")
    assert chosen(monkeypatch, MISSING, other).why_not == "TensorRT: it is not here. torch.sparse: there is no GPU."


@pytest.mark.parametrize("engine", ["tensorrt", "torch"])
def test_what_is_asked_for_and_missing_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    with pytest.raises(
        UnavailableError, match=rf"--engine {engine} cannot be used here: it is not here\. Install it\."
    ):
        chosen(monkeypatch, MISSING, MISSING, engine=engine)


@pytest.mark.parametrize("engine", ["auto", "none", "onnxruntime"])
def test_a_least_speed_up_needs_an_engine_that_has_one(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    with pytest.raises(UnavailableError, match="--min-speedup needs a speed-up, and none can be measured here"):
        chosen(monkeypatch, MISSING, MISSING, engine=engine, min_speedup=1.1)
    assert chosen(monkeypatch, MISSING, HERE, engine="auto", min_speedup=1.1).engine == "torch"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "tensorrt"}, "--engine tensorrt reads ONNX files"),
        ({"engine": "onnxruntime"}, "--engine onnxruntime reads ONNX files"),
        ({"precision": "fp16"}, "--precision converts ONNX files"),
    ],
)
def test_what_reads_onnx_needs_it(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen(monkeypatch, HERE, HERE, has_onnx=False, **options)


def test_a_precision_that_is_given_is_written_without_tensorrt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, MISSING, MISSING, precision="bf16")
    assert (found.engine, found.precision, found.writes_files) == ("none", "bf16", True)
