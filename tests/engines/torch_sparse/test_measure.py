"""The torch engine on the CPU: which nodes are rewritten, and that they compute what they did before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from prox24_export.engines.torch_sparse import measure as torch_sparse
from prox24_export.engines.torch_sparse.measure import Backend
from prox24_export.engines.torch_sparse.rewrite import Rewritten, multiply, rewrite
from prox24_export.engines.torch_sparse.timed import TorchTimed
from prox24_export.errors import InputError, UnavailableError
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.trace import replace_tensors, trace
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.refine.differentiable import make_differentiable
from tests.graphs import linears, magnitude, model, normal, opened, pruned, rewritten, run, save
from tests.latency import QUICK

CPU = torch.device("cpu")
W, V = normal(64, 32), normal(32, 64, seed=1)
GRAPHS: dict[str, tuple[str, dict[str, Array], dict[str, Array]]] = {
    "MatMul, three axes, and a bias": (
        "g (float[b,5,64] x) => (float[b,5,32] y) { h = MatMul(x, w) y = Add(h, c) }",
        {"w": W, "c": normal(32)},
        {"x": normal(2, 5, 64)},
    ),
    "MatMul, the weight on the left": (
        "g (float[b,64,5] x) => (float[b,32,5] y) { y = MatMul(w, x) }",
        {"w": V},
        {"x": normal(2, 64, 5)},
    ),
    "MatMul behind a Transpose": (
        "g (float[b,64] x) => (float[b,32] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }",
        {"w": V},
        {"x": normal(3, 64)},
    ),
    "MatMul of a vector": ("g (float[64] x) => (float[32] y) { y = MatMul(x, w) }", {"w": W}, {"x": normal(64)}),
    "Gemm, transB, a vector as bias": (
        "g (float[b,64] x) => (float[b,32] y) { y = Gemm<transB=1>(x, w, c) }",
        {"w": V, "c": normal(32)},
        {"x": normal(3, 64)},
    ),
    "Gemm with alpha, beta and a matrix as bias": (
        "g (float[3,64] x) => (float[3,32] y) { y = Gemm<alpha=0.5, beta=2.0>(x, w, c) }",
        {"w": W, "c": normal(3, 32)},
        {"x": normal(3, 64)},
    ),
    "Gemm, transA": (
        "g (float[64,b] x) => (float[b,32] y) { y = Gemm<transA=1>(x, w) }",
        {"w": W},
        {"x": normal(64, 3)},
    ),
    "Gemm, the weight on the left": (
        "g (float[64,b] x) => (float[32,b] y) { y = Gemm(w, x) }",
        {"w": V},
        {"x": normal(64, 3)},
    ),
    "Gemm, the weight on the left, both transposed": (
        "g (float[b,64] x) => (float[32,b] y) { y = Gemm<transA=1, transB=1>(w, x, c) }",
        {"w": W, "c": normal(32, 1)},
        {"x": normal(3, 64)},
    ),
    "one weight, two uses": (
        "g (float[b,64] x) => (float[b,64] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }",
        {"w": normal(64, 64)},
        {"x": normal(3, 64)},
    ),
}


def compressed(weight: Tensor) -> Tensor:
    """Into CUTLASS's own 2:4 format and back: loses entries unless groups of four lie along the last axis."""
    stored = sparse_semi_structured_from_dense_cutlass(weight.half())  # type: ignore[no-untyped-call]
    dense: Tensor = sparse_semi_structured_to_dense_cutlass(*stored)  # type: ignore[no-untyped-call]
    return dense.float()


def emulation(**changed: Any) -> Backend:
    return Backend(
        **{
            "name": "emulation",
            "convert": compressed,
            "rows": 32,
            "columns": 16,
            "precisions": ("fp32", "bf16"),
            **changed,
        }
    )


def weights(graph: TracedGraph, layers: list[Linear]) -> dict[Linear, Tensor]:
    return {layer: graph.weight(layer) for layer in layers}


def rewritten_graph(graph: OnnxGraph, feeds: Mapping[str, Array], convert: Any = compressed) -> Rewritten:
    layers = linears(graph)
    source = make_differentiable(graph, feeds)
    return rewrite(graph, source, weights(graph, layers), convert, device=CPU, dtype=torch.float32)


def products(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.target is multiply]


def half(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Values that float16 holds exactly, so that the 2:4 format's rounding is none."""
    return {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_rewritten_products_compute_what_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    text, stored, feeds = GRAPHS[name]
    dense = opened(model(text, half(stored)), tmp_path)
    sparse = OnnxGraph(rewritten(dense, tmp_path / "sparse"))
    result = rewritten_graph(sparse, feeds)
    with torch.no_grad():
        found = result.module(*[torch.from_numpy(array) for array in feeds.values()])
    np.testing.assert_allclose(found[0].numpy(), run(sparse.path, feeds)[0], rtol=1e-4, atol=1e-4)
    (layer,) = linears(sparse)
    assert result.replaced == {layer.name: len(layer.uses)}
    assert len(products(result.module)) == len(layer.uses)
    assert not result.reasons


def test_a_dense_weight_would_lose_entries_so_that_the_comparison_can_fail(tmp_path: Path) -> None:
    text, stored, feeds = GRAPHS["MatMul, three axes, and a bias"]
    dense = opened(model(text, half(stored)), tmp_path)
    result = rewritten_graph(dense, feeds)
    with torch.no_grad():
        (found,) = result.module(torch.from_numpy(feeds["x"]))
    assert not np.allclose(found.numpy(), run(dense.path, feeds)[0], atol=0.1)


def test_the_source_is_not_touched_and_dense_weights_are_left_out(tmp_path: Path) -> None:
    text, stored, feeds = GRAPHS["MatMul behind a Transpose"]
    graph = opened(model(text, stored), tmp_path)
    source = make_differentiable(graph, feeds)
    before = str(source.module.graph)
    layers = weights(graph, linears(graph))
    result = rewrite(graph, source, layers, lambda weight: weight, device=CPU, dtype=torch.float16)
    assert str(source.module.graph) == before
    (parameter,) = source.module.parameters()
    assert parameter.dtype == torch.float32
    assert [(name, tensor.shape, tensor.dtype) for name, tensor in result.module.named_buffers()] == [
        ("two_four_0", (32, 64), torch.float16)
    ]


class Net(nn.Module):
    """`linear` with and without bias, and `addmm`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 32, bias=False)
        self.third, self.shift = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        """Three products."""
        return torch.addmm(self.shift, self.second(torch.relu(self.first(x))), self.third, beta=2, alpha=0.5)


def programs() -> tuple[FxGraph, FxGraph]:
    torch.manual_seed(0)
    dense = FxGraph(Path("net"), trace(Net(), (torch.randn(4, 64),), {}, "net"))
    layers = FindLinears().call(graph=dense).linears
    tensors = {layer.weight: torch.from_numpy(magnitude(dense, layer)) for layer in layers}
    return dense, FxGraph(Path("net"), replace_tensors(dense.program, tensors))


def test_torch_programs_are_rewritten_too() -> None:
    _, sparse = programs()
    layers = weights(sparse, FindLinears().call(graph=sparse).linears)
    feeds = {sparse.inputs[0].name: normal(4, 64)}
    source = make_differentiable(sparse, feeds)
    result = rewrite(sparse, source, layers, lambda weight: weight, device=CPU, dtype=torch.float32)
    with torch.no_grad():
        (found,) = result.module(torch.from_numpy(next(iter(feeds.values()))))
    np.testing.assert_allclose(found.numpy(), sparse.runner()(feeds)[0], rtol=1e-5, atol=1e-5)
    assert len(products(result.module)) == 3


def test_the_benchmark_runs_end_to_end_on_both_front_ends(tmp_path: Path) -> None:
    text, stored, _ = GRAPHS["Gemm, transB, a vector as bias"]
    graph = opened(model(text, half(stored)), tmp_path)
    sparse = OnnxGraph(rewritten(graph, tmp_path / "sparse"))
    pairs: list[tuple[TracedGraph, TracedGraph, Backend]] = [
        (*programs(), emulation(convert=lambda weight: weight)),
        (graph, sparse, emulation()),
    ]
    for dense, pruned_one, kernels in pairs:
        batches = [{dense.inputs[0].name: normal(size, 64)} for size in (2, 4)]
        report = torch_sparse.bench(
            dense, pruned_one, batches, precision="fp32", procedure=QUICK, kernels=kernels, device=CPU
        )
        assert report.engine == "torch"
        assert all(point.valid for point in report.latency), report.latency
        assert [point.batch for point in report.latency] == [2, 4]
        assert all(point.flag_off is not None and point.flag_speedup is not None for point in report.latency)
        assert all(torch_sparse.NOT_TENSORRT in point.warnings for point in report.latency)
        assert {layer.tactic for layer in report.layers} == {"torch.sparse (emulation)"}
        assert all("tokens" in entry.name and "INVALID" not in entry.name for entry in report.layer_times)
        assert report.layer_times


def test_bfloat16_runs_in_mixed_precision_within_its_tolerance() -> None:
    dense, sparse = programs()
    feeds = {dense.inputs[0].name: normal(8, 64)}
    kernels = emulation(convert=lambda weight: weight)
    report = torch_sparse.bench(dense, sparse, [feeds], precision="bf16", procedure=QUICK, kernels=kernels, device=CPU)
    assert [point.reasons for point in report.latency] == [()]


def test_kernels_that_compute_something_else_make_the_measurement_invalid() -> None:
    dense, sparse = programs()
    feeds = {dense.inputs[0].name: normal(8, 64)}
    kernels = emulation(convert=lambda weight: weight * 1.1)
    report = torch_sparse.bench(dense, sparse, [feeds], precision="fp32", procedure=QUICK, kernels=kernels, device=CPU)
    (point,) = report.latency
    assert not point.valid
    assert [reason.partition(":")[0] for reason in point.reasons] == ["sparse"]
    assert all("INVALID" in entry.name for entry in report.layer_times)


def test_layers_that_do_not_fit_stay_dense_with_their_reason(tmp_path: Path) -> None:
    text = """g (float[b,64,4,4] x) => (float[b,40] y) {
        h = Conv(x, c) s = GlobalAveragePool(h) f = Flatten(s) l = MatMul(f, a) m = MatMul(l, d) y = MatMul(m, e) }"""
    stored = {"c": normal(64, 64, 1, 1), "a": normal(64, 36), "d": normal(36, 64), "e": normal(64, 40)}
    graph = opened(model(text, stored), tmp_path)
    layers = {layer.weight: layer for layer in linears(graph)}
    changed = {name: pruned(graph, [layers[name]])[name] for name in ("c", "a", "d")}
    stored["e"][:] = 1
    sparse = opened(model(text, {**stored, **changed}), tmp_path / "sparse")
    feeds = {"x": normal(2, 64, 4, 4)}
    report = torch_sparse.bench(
        graph, sparse, [feeds], precision="fp32", procedure=QUICK, kernels=emulation(), device=CPU
    )
    reasons = {layer.name: (layer.pattern, layer.eligible, layer.reason) for layer in report.layers}
    assert reasons == {
        "Conv:h": (True, False, "convolution: torch.sparse has products of matrices only"),
        "MatMul:l": (True, False, "N = 36, K = 64: emulation needs N % 32 = 0 and K % 16 = 0"),
        "MatMul:m": (True, False, "N = 64, K = 36: emulation needs N % 32 = 0 and K % 16 = 0"),
        "MatMul:y": (False, False, "not 2:4: 640 of 640 groups have more than two non-zeros"),
    }
    assert report.not_measured == torch_sparse.NOTHING_FITS
    assert not report.latency


def test_convolutions_are_carried_along_dense(tmp_path: Path) -> None:
    text = "g (float[b,8,4,4] x) => (float[b,32] y) { h = Conv(x, c) f = Flatten(h) y = MatMul(f, w) }"
    graph = opened(model(text, {"c": normal(4, 8, 1, 1), "w": normal(64, 32)}), tmp_path)
    sparse = OnnxGraph(rewritten(graph, tmp_path / "sparse"))
    kernels = emulation(convert=lambda weight: weight)
    report = torch_sparse.bench(
        graph, sparse, [{"x": normal(2, 8, 4, 4)}], precision="fp32", procedure=QUICK, kernels=kernels, device=CPU
    )
    assert [point.reasons for point in report.latency] == [()]
    assert [layer.name for layer in report.layers if layer.chosen] == ["MatMul:y"]


def test_another_dense_model_is_refused(tmp_path: Path) -> None:
    text, stored, feeds = GRAPHS["Gemm, transB, a vector as bias"]
    sparse = OnnxGraph(rewritten(opened(model(text, stored), tmp_path), tmp_path / "sparse"))
    other = opened(model("g (float[b,64] x) => (float[b,32] y) { y = MatMul(x, u) }", {"u": W}), tmp_path / "other")
    with pytest.raises(InputError, match=r"weight w has shape \[32, 64\] in the sparse one, but in .* there is none"):
        torch_sparse.bench(other, sparse, [feeds], precision="fp32", kernels=emulation(), device=CPU)


def test_a_precision_without_kernels_is_refused(tmp_path: Path) -> None:
    graph = OnnxGraph(save(model(*GRAPHS["MatMul of a vector"][:2]), tmp_path))
    kernels = Backend("cuSPARSELt", lambda weight: weight, 16, 16)
    with pytest.raises(InputError, match="precision fp32: cuSPARSELt computes 2:4 products in fp16 and bf16"):
        torch_sparse.bench(graph, graph, [{}], precision="fp32", kernels=kernels, device=CPU)
    with pytest.raises(InputError, match="at least one batch"):
        torch_sparse.bench(graph, graph, [], precision="fp32", kernels=emulation(), device=CPU)


def test_without_a_gpu_the_engine_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = torch_sparse.availability()
    assert not found.available
    assert found.reason == "torch sees no CUDA GPU."
    with pytest.raises(
        UnavailableError, match=r"--engine torch cannot be used here: torch sees no CUDA GPU\. A machine"
    ):
        torch_sparse.require_torch_sparse()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in torch_sparse.availability().reason


@pytest.mark.parametrize(
    ("capability", "cusparselt", "available", "reason"),
    [
        ((7, 5), True, False, "has compute capability 7.5 and no sparse matrix instructions"),
        ((9, 0), False, False, "has no cuSPARSELt, which A GPU needs"),
        ((8, 6), False, True, ""),
        ((9, 0), True, True, ""),
    ],
)
def test_a_gpu_that_cannot_is_told_from_one_that_can(
    capability: tuple[int, int], cusparselt: bool, available: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: cusparselt)
    found = torch_sparse.availability()
    assert found.available is available
    assert reason in found.reason
    assert (torch_sparse.find_backend().name == "cuSPARSELt") is cusparselt


def test_shapes_and_types_are_those_that_torch_itself_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((True, "CUSPARSELT"), (False, "CUTLASS")):
        monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda there=there: there)
        ours = torch_sparse.find_backend()
        rules = getattr(torch.sparse, f"SparseSemiStructuredTensor{kind}")._DTYPE_SHAPE_CONSTRAINTS  # noqa: SLF001 (the oracle)
        for precision in ours.precisions:
            asked = rules[torch_sparse.DTYPES[precision]]
            assert (asked.sparse_min_rows, asked.sparse_min_cols) == (ours.rows, ours.columns)


def test_the_conversion_reaches_torchs_own_which_wants_a_gpu() -> None:
    with pytest.raises(RuntimeError, match="Only CUDA tensors"):
        torch_sparse.find_backend().convert(torch.zeros(64, 64, dtype=torch.float16))


def test_a_timed_function_ends_when_it_is_closed() -> None:
    timed = TorchTimed("one", lambda: (torch.ones(2, dtype=torch.bfloat16),), ("y",), CPU)
    assert timed.outputs()["y"].dtype == np.float32
    assert len(timed.times(3)) == 3
    assert all(time > 0 for time in timed.times(2))
    timed.close()
    with pytest.raises(RuntimeError, match="closed"):
        timed.times(1)
