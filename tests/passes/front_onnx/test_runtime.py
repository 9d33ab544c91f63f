"""Sessions of ONNX Runtime: its optimiser must not take away what is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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


def test_quantised_products_are_computed_in_float_on_every_cpu() -> None:
    """Fused int8 kernels keep the sum of two products in 16 bits on CPUs without VNNI, which would saturate here."""
    text = """g (float[N,32] x) => (float[N,16] y) {
      q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = DequantizeLinear<axis = 1>(w, t, u)
      y = MatMul(a, b) }"""
    zeros = {"z": np.array(0, np.int8), "u": np.zeros(16, np.int8)}
    scales = {"s": np.array(0.1, np.float32), "t": np.full(16, 0.2, np.float32)}
    proto = model(text, {"w": np.full((32, 16), 127, np.int8), **zeros, **scales})
    x = np.full((4, 32), 12.7, np.float32)
    (found,) = runtime.open_session(proto.SerializeToString()).run(None, {"x": x})
    assert np.iinfo(np.int16).max < 2 * 127 * 127 + 2 * 128 * 127, "nothing could saturate: the test tests nothing"
    np.testing.assert_allclose(found, 32 * 12.7 * 25.4, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_has_as_many_threads_as_torch(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime knows nothing of `OMP_NUM_THREADS`, and would take one for each core."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir())) if tasks.is_dir() else 0
    session: Any = runtime.open_session(model("g (float[N] x) => (float[N] y) { y = Relu(x) }").SerializeToString())
    assert session.get_session_options().intra_op_num_threads == threads
    if tasks.is_dir():
        assert len(list(tasks.iterdir())) - before == threads - 1  # the caller is one of them


def test_the_session_asks_for_quantisers_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be fused on this CPU, too, is left apart: the optimised graph still holds its quantisers."""
    entries: dict[str, str] = {}
    options = runtime.ort.SessionOptions  # type: ignore[attr-defined]

    class Recorded(options):  # type: ignore[misc, valid-type]
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(runtime.ort, "SessionOptions", Recorded)  # type: ignore[attr-defined]
    runtime.open_session(model("g (float[N] x) => (float[N] y) { y = Abs(x) }").SerializeToString())
    assert entries["session.disable_quant_qdq"] == "1"


def test_products_on_a_gpu_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider rounds operands to TF32, and times kernels for each session, where it is not told otherwise."""
    asked: list[Any] = []
    monkeypatch.setattr(runtime, "has_cuda_provider", lambda: True)
    monkeypatch.setattr(runtime.ort, "InferenceSession", lambda *_, providers, **__: asked.extend(providers))  # type: ignore[attr-defined]
    runtime.open_session(b"", gpu=1)
    options = {"device_id": 1, "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert asked == [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    asked.clear()
    runtime.open_session(b"")
    assert asked == ["CPUExecutionProvider"]
