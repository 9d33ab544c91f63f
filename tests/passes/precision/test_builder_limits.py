"""What stays in float32 because of the builder: operators that its parser refuses, and squares that it warns of.

Each was seen in TensorRT for RTX 1.7.1, and `tests/engines/tensorrt/test_real_builder.py` holds the files against it.
"""

from pathlib import Path

import numpy as np
import pytest

from prox24_export.passes.precision.lower import LowerPrecision
from tests.graphs import model, normal
from tests.passes.precision.lowered import BF16_PASS, FP16, X, lower

NORM = """g (float[n,8] x) => (float[n,4] y) {
    [mean] u = ReduceMean<axes = [1]>(x) d = Sub(x, u) [square] SQUARE [variance] v = ReduceMean<axes = [1]>(p)
    a = Add(v, e) s = Sqrt(a) z = Div(d, s) [mul] y = MatMul(z, w) }"""
WEIGHTS = {"w": normal(8, 4), "e": np.array(1e-3, np.float32), "k": np.array(2.0, np.float32)}


@pytest.mark.parametrize("square", ["p = Pow(d, k)", "p = Mul(d, d)"])
def test_a_layer_norm_that_is_written_out_averages_its_squares_in_float32(square: str, tmp_path: Path) -> None:
    proto = model(NORM.replace("SQUARE", square), WEIGHTS)
    lowered, _ = lower(proto, tmp_path, [X], FP16)
    assert lowered.kept_in_fp32.keys() == {"mean", "square", "variance"}
    assert all("overflow float16" in reason for reason in lowered.kept_in_fp32.values())
    lowered, _ = lower(proto, tmp_path / "bf16", [X], BF16_PASS)
    assert lowered.kept_in_fp32 == {}, "bfloat16 has the range of float32"


@pytest.mark.parametrize("square", ["p = Pow(d, e)", "p = Mul(d, x)", "p = Abs(d)"])
def test_a_mean_of_anything_else_is_low(square: str, tmp_path: Path) -> None:
    weights = WEIGHTS | {"e": np.array(3.0, np.float32)}
    lowered, _ = lower(model(NORM.replace("SQUARE", square), weights), tmp_path, [X], FP16)
    assert lowered.kept_in_fp32 == {}


@pytest.mark.parametrize(
    ("operator", "precisions"),
    [("HardSwish", {"bf16"}), ("Mish", {"bf16"}), ("Elu", set())],
)
@pytest.mark.parametrize("settings", [FP16, BF16_PASS], ids=["fp16", "bf16"])
def test_what_the_parser_refuses_stays_in_float32(
    operator: str, precisions: set[str], settings: LowerPrecision, tmp_path: Path
) -> None:
    text = f"g (float[n,8] x) => (float[n,4] y) {{ [act] a = {operator}(x) [mul] y = MatMul(a, w) }}"
    lowered, _ = lower(model(text, {"w": normal(8, 4)}, opset=22, ir=10), tmp_path, [X], settings)
    assert set(lowered.kept_in_fp32) == ({"act"} if settings.precision in precisions else set())
    assert all("TensorRT's parser takes no" in reason for reason in lowered.kept_in_fp32.values())
