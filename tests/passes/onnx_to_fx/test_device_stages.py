"""Stages of an ONNX model as functions on a simulated GPU, and when ONNX Runtime runs them after all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.on_device import exact_products, move_to
from prox24_export.passes.onnx_to_fx import convert, device_stages
from prox24_export.passes.onnx_to_fx.check import DivergenceError
from prox24_export.passes.onnx_to_fx.convert import Converted
from prox24_export.passes.onnx_to_fx.device_function import DeviceFunction
from prox24_export.passes.onnx_to_fx.device_stages import OnnxOnDevice, make_device_runner
from tests.graphs import model, normal, opened
from tests.simulated_gpu import GPU, simulate_gpu

SIZES = """g (float[N,8] x) => (float[N,16] y) {
    s = Shape(x) n = Gather(s, zero) m = Mul(n, two) l = Unsqueeze(m, zero) h = Concat<axis=0>(l, eight)
    a = MatMul(x, w) r = Reshape(a, h) t = Reshape(r, back) y = Add(t, b)
}"""
CONSTANTS = {"zero": [0], "two": 2, "eight": [8], "back": [-1, 16]}


def graph_of_sizes(folder: Path) -> OnnxGraph:
    constants = {name: np.array(value, np.int64) for name, value in CONSTANTS.items()} | {"zero": np.array(0)}
    text = SIZES.replace("Unsqueeze(m, zero)", "Unsqueeze(m, first)")
    weights = {"w": normal(8, 16), "b": normal(16), "first": np.array([0]), **constants}
    return opened(model(text, weights), folder)


def test_sizes_are_computed_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = graph_of_sizes(tmp_path), normal(5, 8)
    with simulate_gpu(monkeypatch) as traffic:
        stages = OnnxOnDevice(graph, GPU)
        there = move_to(x, GPU)
        run = stages.compile(graph.nodes, {"x": there}, ["y"], {})
        traffic.copies.clear()
        traffic.reads.clear()
        found = run({"x": there})["y"]
        assert (traffic.copies, traffic.reads, stages.on_host) == ([], [], {})
        assert found.device == GPU
        np.testing.assert_allclose(found.cpu().numpy(), graph.runner()({"x": x})[0], rtol=1e-5, atol=1e-5)


def change_parameter(monkeypatch: pytest.MonkeyPatch, name: str, factor: float, nameless: str = "") -> None:
    """Makes functions wrong: the parameter that is stored under `name` is multiplied, and a value loses its name."""
    original = convert.convert_model

    def wrong(*arguments: Any, **options: Any) -> Converted:
        converted = original(*arguments, **options)
        with torch.no_grad():
            converted.module.get_parameter(converted.parameters[name]).mul_(factor)
        for node in converted.module.graph.nodes:
            if node.meta.get("value") == nameless:
                del node.meta["value"]
        return converted

    for module in (convert, device_stages):
        monkeypatch.setattr(module, "convert_model", wrong)


def test_a_function_that_computes_something_else_gives_way_to_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = graph_of_sizes(tmp_path), normal(5, 8)
    change_parameter(monkeypatch, "b", 2)
    with simulate_gpu(monkeypatch):
        stages = OnnxOnDevice(graph, GPU)
        feeds: dict[str, Any] = {"x": move_to(x, GPU)}
        found = stages.compile(graph.nodes, feeds, ["y"], {})(feeds)["y"]
        assert found.device == GPU
        np.testing.assert_array_equal(found.cpu().numpy(), graph.runner()({"x": x})[0])
        (reason,) = stages.on_host.values()
    assert "differs from ONNX Runtime, first at node Add:y (Add)" in reason


VARIANCE = """g (float[n,64] x) => (float[n,64] y) {
    m = ReduceMean<axes = [-1]>(x) s = Mul(x, x) q = ReduceMean<axes = [-1]>(s) p = Mul(m, m) v = Sub(q, p)
    e = Add(v, tiny) r = Sqrt(e) c = Sub(x, m) d = Div(c, r) y = Mul(d, g)
}"""  # E[x²] − E[x]²: of values near 300 it loses all but three digits


@pytest.mark.parametrize(("factor", "on_host"), [(1, False), (1.0005, True)])
def test_a_stage_that_makes_much_of_roundings_stays_on_the_gpu(
    factor: float, on_host: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = opened(model(VARIANCE, {"tiny": np.array(1e-3, np.float32), "g": normal(64)}), tmp_path)
    x = (300 + 0.1 * normal(40, 64)).astype(np.float32)
    change_parameter(monkeypatch, "g", factor)
    monkeypatch.setattr(device_stages, "agree_on_device", lambda *_: False)  # whatever processor this is
    with simulate_gpu(monkeypatch):
        stages = OnnxOnDevice(graph, GPU)
        stages.compile(graph.nodes, {"x": move_to(x, GPU)}, ["y"], {})
        assert bool(stages.on_host) == on_host
        if on_host:
            with pytest.raises(DivergenceError, match=r"first at node Mul:y \(Mul\)"):
                make_device_runner(graph, GPU, {"x": x})
        else:
            plain = normal(40, 64)  # on which nothing cancels
            (found,) = make_device_runner(graph, GPU, {"x": x}).run({"x": plain})
            assert found.device == GPU
            np.testing.assert_allclose(found.cpu().numpy(), graph.runner()({"x": plain})[0], rtol=1e-4, atol=1e-4)


def test_a_value_that_differs_and_that_no_node_has_computed_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = graph_of_sizes(tmp_path), normal(5, 8)
    change_parameter(monkeypatch, "b", 2, nameless="y")
    with simulate_gpu(monkeypatch):
        stages = OnnxOnDevice(graph, GPU)
        stages.compile(graph.nodes, {"x": move_to(x, GPU)}, ["y"], {})
        (reason,) = stages.on_host.values()
    assert "first at node y (Constant): value 'y' differs in 80 of 80 entries" in reason


def test_a_batch_that_a_function_cannot_take_goes_to_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of_sizes(tmp_path)
    run = DeviceFunction.run

    def picky(function: DeviceFunction, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(arguments[0]) == 3:
            raise RuntimeError("three are too few")
        return run(function, arguments)

    monkeypatch.setattr(DeviceFunction, "run", picky)
    with simulate_gpu(monkeypatch):
        stages = OnnxOnDevice(graph, GPU)
        feeds = [{"x": move_to(normal(rows, 8), GPU)} for rows in (5, 3, 4)]
        call = stages.compile(graph.nodes, feeds[0], ["y"], {})
        for feed in feeds:
            wanted = graph.runner()({"x": feed["x"].cpu().numpy()})[0]
            np.testing.assert_allclose(call(feed)["y"].cpu().numpy(), wanted, rtol=1e-5, atol=1e-5)
        assert list(stages.on_host.values()) == ["three are too few"]


def test_products_are_exact_for_a_while() -> None:
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision
    with exact_products():
        assert cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert cudnn.conv.fp32_precision == before
