"""The memory of a run: what its matrices need, what is left for activations, and a limit that is too small."""

from pathlib import Path
from typing import Any

import pytest

from prox24_export import export
from prox24_export.errors import InputError
from prox24_export.facts.machine import measure_anonymous_mb
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.settings import Settings
from prox24_export.solver.costs import estimate_solver_bytes
from prox24_export.stages import memory
from prox24_export.stages.memory import (
    GB,
    MB,
    estimate_solver_mb,
    estimate_stage_mb,
    estimate_sums_mb,
    expect_memory,
    expect_memory_to_convert,
    find_memory_limit,
    find_spill,
    group_by_input,
)
from tests.command import in_process, network, samples
from tests.graphs import linears, model, normal, save


def test_gram_matrices_count_by_part_stream_and_input() -> None:
    square = 1000**2 / 2**20
    assert estimate_sums_mb([1000], aims=True, parts=2) == pytest.approx((2 * 2 * 8 + 2 * 4) * square)
    assert estimate_sums_mb([1000, 1000], aims=True, parts=2) == pytest.approx((2 * 2 * 2 * 8 + 2 * 4) * square)
    assert estimate_sums_mb([1000], aims=False, parts=2) == pytest.approx((2 * 8 + 4) * square)


def test_a_baseline_needs_the_sums_two_squares_and_its_largest_weight(tmp_path: Path) -> None:
    layers = linears(OnnxGraph(network(tmp_path, k=64)))
    largest = max(layer.n * layer.k for layer in layers)
    expected = (8 * 64**2 + 16 * 64**2 + 10 * largest) / MB
    assert estimate_solver_mb([64], layers, aims=False, parts=1) == pytest.approx(expected)


def test_a_solver_needs_the_sums_a_factor_and_what_is_solved(tmp_path: Path) -> None:
    layers = linears(OnnxGraph(network(tmp_path, k=64)))
    found = estimate_solver_mb([64], layers, aims=True, parts=1)
    solving = max(estimate_solver_bytes([layer.n], layer.k) for layer in layers)
    assert found == pytest.approx((2 * 8 * 64**2 + 8 * 64**2 + solving) / MB)


def test_layers_of_one_input_count_once(tmp_path: Path) -> None:
    text = "g (float[n,64] x) => (float[n,64] y) { q = MatMul(x, a) k = MatMul(x, b) s = Add(q, k) y = MatMul(s, c) }"
    graph = OnnxGraph(save(model(text, {name: normal(64, 64) for name in "abc"}), tmp_path))
    layers = linears(graph)
    assert [len(group) for group in group_by_input(layers)] == [2, 1]
    first, second = (estimate_stage_mb(stage, Settings(), 1) for stage in schedule(graph, layers))
    assert second <= first < 2 * second


def test_what_the_matrices_leave_is_for_activations(tmp_path: Path) -> None:
    graph = OnnxGraph(network(tmp_path))
    stages = schedule(graph, linears(graph))
    plenty = find_spill(stages, Settings(memory=100.0), 1, tmp_path)
    assert 0.9 * 50 * GB < plenty.limit + measure_anonymous_mb() * MB / 2 <= 50 * GB
    assert find_spill(stages, Settings(memory=0.001), 1, tmp_path).limit == 0
    assert 0 < find_spill(stages, Settings(), 1, tmp_path).limit < find_memory_limit(Settings())


def test_a_limit_that_is_too_small_is_refused_with_one_that_would_do(tmp_path: Path) -> None:
    graph = OnnxGraph(network(tmp_path))
    layers = linears(graph)
    with pytest.raises(InputError, match=r"--memory 0\.001 is too little.* Give --memory \d") as caught:
        expect_memory(graph, layers, Settings(memory=0.001), 1)
    told = float(str(caught.value).split("Give --memory ")[1].split(",")[0])
    expect_memory(graph, layers, Settings(memory=told), 1)
    expect_memory(graph, [], Settings(memory=0.001), 1)


def test_the_command_refuses_before_any_work(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--memory")
    for more in ((), ("--plan",)):
        outcome = in_process(*arguments, "0.01", *more, folder=tmp_path, capture=capfd)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert "--memory 0.01 is too little" in outcome.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "data.npz"}
    assert in_process(*arguments, "8", folder=tmp_path, capture=capfd).code == 0


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_model_that_is_converted_has_to_fit_into_memory(precision: Any, tmp_path: Path) -> None:
    graph = OnnxGraph(network(tmp_path, hidden=1 << 16, n=16))
    held = measure_anonymous_mb() * MB / GB
    size = 4 * graph.parameters / GB
    wanted = rf"--precision {precision} reads the whole model, which takes about 0\.1 GB.* Leave --precision out"
    with pytest.raises(InputError, match=wanted):
        expect_memory_to_convert(graph, Settings(precision=precision, memory=held))
    expect_memory_to_convert(graph, Settings(precision=precision, memory=held + 2 * size + 0.1))
    expect_memory_to_convert(graph, Settings(precision="fp32", memory=held))
    expect_memory_to_convert(graph, Settings(memory=held))


def test_a_model_that_cannot_be_converted_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CONVERSION", 1e9)
    settings = Settings(precision="fp16", engine="none")
    with pytest.raises(InputError, match="reads the whole model"):
        export(network(tmp_path), samples(tmp_path), tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()
