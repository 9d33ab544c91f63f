"""The matrix X of a use: X @ Wᵀ must be what ONNX Runtime computes at the node itself."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prox24_export.passes.graph import activations
from prox24_export.passes.graph.activations import Patches, Rows
from prox24_export.passes.graph.arrays import Array
from tests.graphs import linears, model, normal, opened, run
from tests.simulated_gpu import GPU, simulate_gpu

quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def product(proto: onnx.ModelProto, x: Array, folder: Path) -> tuple[Array, Array]:
    """(`X @ Wᵀ` by our view and layout, ONNX Runtime's output)."""
    graph = opened(proto, folder)
    (linear,) = linears(graph)
    (use,) = linear.uses
    rows = torch.cat(list(use.view.chunks(x)))
    assert rows.shape[1] == linear.k
    (expected,) = run(proto, {"x": x})
    return (rows.double() @ graph.weight(linear).double().T).numpy(), expected


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    spatial = draw(st.integers(1, 3))

    def sizes(low: int, high: int, count: int = spatial) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel = sizes(1, 3)
    auto = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    # ONNX Runtime has no SAME for dilated kernels
    dilations = [1] * spatial if auto.startswith("SAME") else sizes(1, 2)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": sizes(1, 3), "dilations": dilations}
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    elif draw(st.booleans()):
        attributes["pads"] = sizes(0, 2, 2 * spatial)
    image = [size + 4 for size in sizes(1, 4)]  # never smaller than a dilated kernel
    return {"attributes": attributes, "kernel": kernel, "image": image, "samples": draw(st.integers(1, 3))}


@quick
@given(convolutions())
def test_patches_times_weight_is_convolution(tmp_path: Path, case: dict[str, Any]) -> None:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], **case["attributes"])
    proto = model("g (float[] x) => (float[] y) {}", {"w": normal(5, 4, *case["kernel"])})
    for value, rank in ((proto.graph.input[0], len(case["kernel"]) + 2), (proto.graph.output[0], 0)):
        value.type.tensor_type.ClearField("shape")
        for axis in range(rank):
            value.type.tensor_type.shape.dim.add(dim_param=f"d{axis}")
    proto.graph.node.append(node)
    got, expected = product(proto, normal(case["samples"], 4, *case["image"]), tmp_path)
    channels_last = np.moveaxis(expected, 1, -1).reshape(-1, 5)
    np.testing.assert_allclose(got, channels_last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 2, 3, 8)])
def test_rows_times_weight_is_matmul_with_the_weight_on_the_right(tmp_path: Path, shape: tuple[int, ...]) -> None:
    proto = model(
        f"g (float[{','.join(map(str, shape))}] x) => (float[] y) {{ y = MatMul(x, w) }}", {"w": normal(8, 5)}
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    got, expected = product(proto, normal(*shape), tmp_path)
    np.testing.assert_allclose(got, expected.reshape(-1, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8,), (8, 3), (2, 8, 3), (2, 2, 8, 3)])
def test_rows_times_weight_is_matmul_with_the_weight_on_the_left(tmp_path: Path, shape: tuple[int, ...]) -> None:
    proto = model(
        f"g (float[{','.join(map(str, shape))}] x) => (float[] y) {{ y = MatMul(w, x) }}", {"w": normal(5, 8)}
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    got, expected = product(proto, normal(*shape), tmp_path)
    transposed = expected if expected.ndim == 1 else np.swapaxes(expected, -1, -2)
    np.testing.assert_allclose(got, transposed.reshape(-1, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight_on_the_left", [False, True])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_rows_times_weight_is_gemm_but_for_alpha_and_bias(
    tmp_path: Path, weight_on_the_left: bool, trans_a: int, trans_b: int
) -> None:
    left = (8, 6) if trans_a else (6, 8)
    right = (5, 8) if trans_b else (8, 5)
    activation, weight = (right, left) if weight_on_the_left else (left, right)
    operands = "w, x" if weight_on_the_left else "x, w"
    node = f"y = Gemm<transA = {trans_a}, transB = {trans_b}, alpha = 0.5, beta = 2.0>({operands}, c)"
    declared = ",".join(map(str, activation))
    bias = normal(6, 5, seed=3)
    proto = model(f"g (float[{declared}] x) => (float[6,5] y) {{ {node} }}", {"w": normal(*weight), "c": bias})
    got, expected = product(proto, normal(*activation), tmp_path)
    without_bias = expected - 2 * bias
    np.testing.assert_allclose(0.5 * got, without_bias.T if weight_on_the_left else without_bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("view", [Rows(-1), Rows(-2), Patches((3,), (1,), (1,), (1, 1))], ids=["right", "left", "conv"])
def test_small_chunks_hold_the_same_rows_in_the_same_order(
    view: Rows | Patches, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(5, 8, 9)
    whole = torch.cat(list(view.chunks(x)))
    monkeypatch.setattr(activations, "CHUNK_VALUES", 50)
    monkeypatch.setattr(activations, "CHUNK_TOKENS", 3)
    pieces = list(view.chunks(x))
    assert len(pieces) > 5
    assert max(map(len, pieces)) <= 3
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (Rows(-1), (0, 7, 8)),
        (Rows(-1), (2, 0, 8)),
        (Rows(-2), (2, 8, 0)),
        (Patches((3,), (1,), (1,), (0, 0)), (0, 4, 9)),
    ],
)
def test_no_token_is_an_empty_matrix_of_the_right_width(view: Rows | Patches, shape: tuple[int, ...]) -> None:
    rows = torch.cat(list(view.chunks(np.zeros(shape, np.float32))))
    assert rows.shape == (0, 12 if isinstance(view, Patches) else 8)


def test_halves_and_integers_are_read_as_float32_and_doubles_stay() -> None:
    for dtype, expected in ((np.float16, torch.float32), (np.int8, torch.float32), (np.float64, torch.float64)):
        (rows,) = Rows().chunks(np.ones((2, 4), dtype))
        assert rows.dtype == expected


def test_patches_of_one_large_sample_come_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    view = Patches((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    image = normal(1, 4, 40, 40)
    whole = torch.cat(list(view.chunks(image)))
    monkeypatch.setattr(activations, "CHUNK_VALUES", 36 * 40 * 3)  # three rows of positions
    pieces = list(view.chunks(image))
    assert max(piece.numel() for piece in pieces) <= 36 * 40 * 3
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("view", [Rows(-1), Patches((3,), (1,), (1,), (1, 1))], ids=["rows", "patches"])
def test_a_gpu_takes_more_at_once(view: Rows | Patches, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(normal(5, 8, 8))
    monkeypatch.setattr(activations, "CHUNK_VALUES", 50)
    here = list(view.chunks(x))
    assert len(here) > 4
    with simulate_gpu(monkeypatch):
        (there,) = view.chunks(x.to(GPU))
        assert torch.equal(there.cpu(), torch.cat(here))
