"""Sessions of ONNX Runtime: its optimiser must not take away what is asked for."""

from pathlib import Path

import numpy as np
import pytest

from prox24_export import export
from prox24_export.passes.front_onnx import runtime
from prox24_export.settings import Settings
from tests.command import command
from tests.graphs import model, normal, save

# A product between two Transpose that is an output, too
BETWEEN = "g (float[8,N] x) => (float[N,12] y, float[12,N] z) { t = Transpose(x) y = Gemm(t, w) z = Transpose(y) }"


def test_a_product_between_two_transposes_stays_an_output(tmp_path: Path) -> None:
    proto, x, w = model(BETWEEN, {"w": normal(8, 12)}), normal(8, 3), normal(8, 12)
    options = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
    with pytest.raises(RuntimeError, match=runtime.LOST_OUTPUT):  # else what works around it can go
        runtime.ort.InferenceSession(proto.SerializeToString(), **options)  # type: ignore[attr-defined]
    y, z = runtime.open_session(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(y, x.T @ w, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(z, y.T)
    report = export(save(proto, tmp_path), None, tmp_path / "out", settings=Settings(method="magnitude"))
    assert [layer.state for layer in report.layers] == ["sparse"]


def test_a_model_whose_float16_copy_ends_the_process_is_converted_all_the_same(
    shared_data: Path, tmp_path: Path
) -> None:
    """In a process of its own: where what works around it is gone, that process dies by SIGSEGV."""
    options = ("--method", "magnitude", "--precision", "fp16", "--engine", "none", "-o", "out")
    outcome = command(shared_data / "edge" / "nnsplit_en.onnx", *options, folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert (tmp_path / "out" / "engines" / "sparse.fp16.onnx").is_file()


def test_other_faults_are_not_tried_again() -> None:
    with pytest.raises(Exception, match="Nonsense"):
        runtime.open_session(model("g (float[N] x) => (float[N] y) { y = Nonsense(x) }").SerializeToString())
