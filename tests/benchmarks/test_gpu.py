"""The parts of the GPU benchmark where there is no GPU: how they end, their time limit, arithmetic and files."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import device, engines, kernels, meter, part, solve
from benchmarks.gpu.engine_models import Bert, Subject, list_subjects, trace_module
from benchmarks.gpu.engine_tables import write_section
from benchmarks.gpu.kernels import Kernels
from benchmarks.gpu.meter import Call
from benchmarks.gpu.part import Group, Measured, Part, Results
from benchmarks.gpu.solve import Solves
from benchmarks.power_law import power_law
from prox24_export.engines.torch_sparse.measure import Backend
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.results.engine import Distribution, EngineReport, Estimate, LatencyPoint, Ratio
from tests.command import network, samples
from tests.graphs import model, normal, save
from tests.latency import QUICK
from tests.simulated_gpu import simulate_gpu

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = ("kernels", "solve", "device", "engines", "tensorrt_engines")
CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which it would run")
WITHOUT = """
import runpy, sys
sys.modules |= dict.fromkeys(["onnx", "onnx_ir", "onnxruntime", "polygraphy", "tensorrt", "transformers"])
"""
TIMED_WITHOUT = (
    WITHOUT
    + """
from pathlib import Path
import torch
from benchmarks.gpu.engine_models import Bert, Subject, trace_module
from benchmarks.gpu.engines import Engines
from prox24_export.engines.torch_sparse.measure import Backend
from tests.latency import QUICK

kernels = Backend("dense", lambda weight: weight, 16, 16)
subject = Subject("small", lambda: trace_module(Bert(32, 64, 2, 1)), (128, 32), (2,), 1)
measured = Engines(torch.device("cpu"), Path(sys.argv[1]), "bf16", QUICK, kernels).measure(subject, 2)
print(len(measured.rows[0]["engine"]["latency"]))
"""
)


@dataclass(frozen=True)
class CpuMeter:
    """Takes times by the clock; a kernel of its own the profiler cannot see here."""

    device: torch.device = CPU
    name: str = "a processor"

    def medians(self, calls: Mapping[str, Call], repeats: int = 1) -> dict[str, float]:
        return meter.medians(calls, clock, repeats)

    def kernel_ms(self, call: Call, kernel: str) -> float | None:
        call.run()
        return None if kernel == "_gradient_kernel" else 0.5

    def peak_mb(self, run: Callable[[], object]) -> float | None:
        run()
        return None

    def synchronize(self) -> None:
        pass


def clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@no_gpu
@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_gpu_each_part_says_so_and_exits_with_2(script: str) -> None:
    done = run_python(f"benchmarks/gpu/{script}.py")
    assert done.returncode == 2, done.stderr
    assert done.stderr == "no CUDA GPU here: nothing measured\n"
    assert done.stdout == ""


@no_gpu
@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "tensorrt_engines"])
def test_the_other_parts_need_neither_onnx_nor_tensorrt_when_started_as_modules(script: str) -> None:
    code = f"{WITHOUT}sys.argv = ['part']\nrunpy.run_module('benchmarks.gpu.{script}', run_name='__main__')"
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (2, "no CUDA GPU here: nothing measured\n")


def test_whole_exports_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_warm_up", lambda _: None)
    subject = device.Subject("net", network(tmp_path), samples(tmp_path, 40), {"damping": 0.1, "blend": 0.5})
    with simulate_gpu(monkeypatch):
        row = device.compare(subject, tmp_path)
    assert (row["model"], row["layers"], row["mask_percent"], row["worst_layer_percent"]) == ("net", 2, 0, 0)
    assert row["times_as_fast"] == row["cpu_seconds"] / row["gpu_seconds"]
    assert row["on_host"] == "nothing"
    assert device.read_committed_seconds() > 60


def test_several_gpus_are_compared_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_warm_up", lambda _: None)
    subject = device.Subject("net", network(tmp_path), samples(tmp_path, 40), {"damping": 0.1, "blend": 0.5})
    with simulate_gpu(monkeypatch):
        assert device.list_groups(CpuMeter())[-1].title == "a decoder of 1.1 billion parameters"
    with simulate_gpu(monkeypatch, count=2):
        assert device.list_groups(CpuMeter())[-1].title == "2 GPUs against one"
        row = device.compare_one_with_all(subject, tmp_path)
    assert (row["model"], row["layers"], row["mask_percent"], row["worst_layer_percent"]) == ("net", 2, 0, 0)
    assert row["times_as_fast"] == row["one_seconds"] / row["all_seconds"]


def test_parts_are_chosen_by_their_names() -> None:
    assert run_python("-m", "benchmarks.gpu", "kernel").returncode == 2


def test_torch_models_are_timed_without_onnx(tmp_path: Path) -> None:
    done = run_python("-c", TIMED_WITHOUT, str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr[-2000:]


@pytest.mark.parametrize("limit", ["0", "-3", "nan", "soon"])
def test_a_limit_that_is_no_time_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        part.run_part(kernels.PART, ["--limit", limit])
    assert ended.value.code == 2
    assert f"expected a positive number of seconds. Got '{limit}'" in capsys.readouterr().err


def group(title: str, seconds: float, spend: Callable[[], None] = lambda: None) -> Group:
    def measure() -> Measured:
        spend()
        return Measured([{"of": title}], f"table of {title}")

    return Group(title, seconds, measure)


def test_a_group_is_not_begun_when_too_little_time_is_left() -> None:
    now = [0.0]

    def spend() -> None:
        now[0] += 60

    groups = [group("a", 50, spend), group("b", 50, spend), group("long", 90, spend), group("short", 30, spend)]
    kept: list[tuple[list[str], bool]] = []
    results = part.measure_groups(
        groups, Results({"limit_s": 200}), lambda r: kept.append((list(r.sections), r.finished)), lambda: now[0]
    )
    assert list(results.sections) == ["a", "b", "short"]
    assert results.left_out == {"long": "80 s were left, it takes about 90 s"}
    assert kept == [(["a"], False), (["a", "b"], False), (["a", "b", "short"], False), (["a", "b", "short"], True)]
    assert "- long: 80 s were left, it takes about 90 s" in results.markdown()


def test_a_group_that_fails_takes_no_other_with_it() -> None:
    def fail() -> None:
        raise RuntimeError("CUDA out of memory\nand more")

    results = part.measure_groups(
        [group("a", 1), group("b", 1, fail), group("c", 1)], Results({"limit_s": 9}), lambda _: None, lambda: 0.0
    )
    assert list(results.sections) == ["a", "c"]
    assert results.failed == {"b": "CUDA out of memory"}
    assert results.rows() == [{"group": "a", "of": "a"}, {"group": "c", "of": "c"}]


def test_a_killed_run_leaves_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(part, "cuda_meter", CpuMeter)
    killed = Part("gpu_some", "Some.", lambda _: [group("a", 1), group("b", 1, kill)])
    with pytest.raises(KeyboardInterrupt):
        part.run_part(killed, ["--write", str(tmp_path)])
    found = json.loads((tmp_path / "gpu_some.json").read_text(encoding="utf-8"))
    assert found["rows"] == [{"group": "a", "of": "a"}]
    assert found["finished"] is False
    text = (tmp_path / "gpu_some.md").read_text(encoding="utf-8")
    assert "**Not finished**" in text
    assert "## a\n\ntable of a\n" in text
    assert {file.name for file in tmp_path.iterdir()} == {"gpu_some.json", "gpu_some.md"}


def test_results_name_device_versions_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError

    monkeypatch.setattr(part, "cuda_meter", CpuMeter)
    good = Part("gpu_good", "Good.", lambda _: [group("a", 1)])
    bad = Part("gpu_bad", "Bad.", lambda _: [group("a", 1, fail), group("b", 100)])
    assert part.run_part(good, ["--write", str(tmp_path / "new"), "--limit", "50"]) == 0
    assert part.run_part(bad, ["--write", str(tmp_path), "--limit", "50"]) == 1
    found = json.loads((tmp_path / "new" / "gpu_good.json").read_text(encoding="utf-8"))
    assert (found["device"], found["torch"], found["limit_s"]) == ("a processor", torch.__version__, 50)
    assert (found["finished"], found["failed"], found["left_out"]) == (True, {}, {})
    worse = json.loads((tmp_path / "gpu_bad.json").read_text(encoding="utf-8"))
    assert worse["failed"] == {"a": "ValueError"}
    assert list(worse["left_out"]) == ["b"]
    assert "Not finished" not in (tmp_path / "new" / "gpu_good.md").read_text(encoding="utf-8")


def test_every_group_fits_into_the_limit_and_each_part_below_four_minutes() -> None:
    there = CpuMeter()
    lists = [kernels.PART.groups(there), solve.PART.groups(there), engines.PART.groups(there)]
    for groups in lists:
        assert len({group.title for group in groups}) == len(groups)
        assert all(group.seconds < part.LIMIT / 2 for group in groups)
    assert part.LIMIT < 240


def test_a_table_shows_losses_and_leaves_unknown_cells_empty() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "share": 12.3456, "agrees": True},
        {"name": "b", "share": None, "agrees": False},
    ]
    text = part.markdown_table(rows, {"name": "of", "share": "share, %", "agrees": "agrees"})
    assert text.splitlines() == [
        "| of | share, % | agrees |",
        "|---|---|---|",
        "| a | 12.35 | yes |",
        "| b |  | **no** |",
    ]


def test_calls_take_turns_and_what_they_overwrite_is_put_back_untimed() -> None:
    told: list[str] = []
    calls = {
        "a": Call(lambda: told.append("a"), lambda: told.append("restore a")),
        "b": Call(lambda: told.append("b")),
    }
    times = iter([9.0] * 2 * meter.WARM_UPS + [1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    def time_ms(run: Callable[[], object]) -> float:
        run()
        return next(times)

    assert meter.medians(calls, time_ms, 3) == {"a": 2.0, "b": 20.0}
    assert told == ["restore a", "a", "b"] * (meter.WARM_UPS + 3)


@dataclass
class Event:
    key: str
    count: int
    self_device_time_total: float


def test_a_kernels_time_is_the_mean_of_its_runs() -> None:
    events = [Event("_splitting_kernel", 20, 3000.0), Event("memcpy", 40, 9e9), Event("_splitting_kernel_2", 1, 7.0)]
    assert meter.mean_ms(events, "_splitting_kernel") == pytest.approx(0.15)
    assert meter.mean_ms(events, "_prox_kernel") is None


def test_torchs_profiler_tells_what_is_read_of_it() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ones(3).add_(1)
    assert meter.mean_ms(profiler.key_averages(), "aten::add_") == 0.0  # no device took part


def test_the_ceiling_is_a_copy_of_as_many_bytes() -> None:
    class Fixed(CpuMeter):
        def medians(self, calls: Mapping[str, Call], repeats: int = 1) -> dict[str, float]:
            del repeats
            return dict.fromkeys(calls, 2.0)

    assert meter.copy_bandwidth(Fixed(), 1000) == pytest.approx(2 * 4000 / 2e-3 / 1e9)
    assert meter.share_of_ceiling(6e9, 4.0, 3000.0) == pytest.approx(50.0)
    assert meter.share_of_ceiling(6e9, None, 3000.0) is None


def test_kernels_are_set_beside_the_copy() -> None:
    there = Kernels(CpuMeter())
    there.__dict__["bandwidth"] = 100.0  # GB/s; measured once, and cached there
    measured = there.measure_kernels(32, 64)
    assert len(measured.rows) == 3 * 2 * len(kernels.STRENGTHS)
    first = {row["kernel"]: row for row in measured.rows if row["dtype"] == "float32" and row["strength"] == 1.0}
    assert first["splitting_step"]["moved_mb"] == pytest.approx(6 * 32 * 64 * 4 / 1e6)
    assert first["splitting_step"]["ceiling_percent"] == pytest.approx(100 * 6 * 32 * 64 * 4 / 100e9 / 0.5e-3)
    assert first["prox24"]["moved_mb"] == pytest.approx(2 * 32 * 64 * 4 / 1e6)
    assert first["prox24"]["reference_ms"] > 0
    assert first["gradient_step"]["kernel_ms"] is None
    assert first["gradient_step"]["ceiling_percent"] is None
    assert len(measured.markdown.splitlines()) == 2 + len(measured.rows)


def test_an_iteration_is_set_beside_its_product() -> None:
    rows = Kernels(CpuMeter()).measure_iteration(32, 64).rows
    assert [row["products"] for row in rows] == list(kernels.PRODUCTS)
    for row in rows:
        assert row["ceiling_percent"] == pytest.approx(100 * row["product_ms"] / row["iteration_ms"])
        assert row["product_tflops"] == pytest.approx(2 * 32 * 64 * 64 / row["product_ms"] / 1e9)


def test_whole_layers_are_set_beside_those_of_the_cpu() -> None:
    solves = Solves(CpuMeter(), layers={64: power_law(64)}, repeats=1)
    with pytest.raises(RuntimeError, match=r"P\(64\) was not solved on the device"):
        solves.compare_with_cpu(64)
    solved = {row["products"]: row for row in solves.measure_device(64).rows}
    assert all(0 < row["held_out_error"] < 0.1 and row["peak_mb"] is None for row in solved.values())
    compared = {row["products"]: row for row in solves.compare_with_cpu(64).rows}
    assert compared["float32"]["error_ratio"] == pytest.approx(1.0, abs=1e-9)
    assert compared["float32"]["mask_percent"] == 0.0
    for products, row in compared.items():
        assert row["error_ratio"] == pytest.approx(row["held_out_error"] / row["cpu_held_out_error"])
        assert row["held_out_error"] == solved[products]["held_out_error"]
        assert row["times_as_fast"] == pytest.approx(row["cpu_seconds"] / row["seconds"])
    (wide, *_) = solves.measure_device(64, 32).rows
    assert wide["layer"] == "32 × 64"


def small_bert() -> Subject:
    return Subject("small", lambda: trace_module(Bert(32, 64, 2, 1)), (128, 32), (2, 1), 1)


def test_engines_are_timed_end_to_end_and_by_shape(tmp_path: Path) -> None:
    backend = Backend("dense", lambda weight: weight, 16, 16)
    there = engines.Engines(CPU, tmp_path, "bf16", QUICK, backend)
    first, second = there.groups([small_bert()])
    assert (first.title, second.title) == ("small, batch 2", "small, batch 1")
    measured = first.measure()
    (row,) = measured.rows
    assert (row["model"], row["batch"]) == ("small", 2)
    assert [point["batch"] for point in row["engine"]["latency"]] == [2]
    assert row["engine"]["latency"][0]["reasons"] == ()
    assert len(row["engine"]["layers"]) == 6
    assert row["estimate"]["sparse_share"] == 1.0
    assert "torch.sparse (not TensorRT)" in measured.markdown
    assert "K = 32, N = 64, 256 tokens" in measured.markdown


def test_an_onnx_model_is_timed_at_two_batch_sizes(tmp_path: Path) -> None:
    product = model("g (float[b,16] x) => (float[b,32] y) { y = MatMul(x, w) }", {"w": normal(16, 32)})
    file = save(product, tmp_path / "model")
    backend = Backend("dense", lambda weight: weight, 16, 16)
    there = engines.Engines(CPU, tmp_path, "bf16", QUICK, backend)
    for one in there.groups([Subject("one product", lambda: OnnxGraph(file), (16,), (4, 2), 1)]):
        (row,) = one.measure().rows
        assert len(row["engine"]["latency"]) == 1


def test_every_model_has_a_turn_before_the_second_batch_size_of_any(tmp_path: Path) -> None:
    subjects = list_subjects()
    titles = [group.title for group in engines.Engines(CPU, tmp_path).groups(subjects)]
    assert titles[: len(subjects)] == [f"{subject.name}, batch {subject.batches[0]}" for subject in subjects]
    assert len(titles) == sum(len(subject.batches) for subject in subjects)


def test_a_loss_stands_in_the_table_like_a_gain() -> None:
    slow = Distribution(9, 1.0, 3.0, 2.0, 2.0, 2.0, 2.0, 3.0, 500.0, 0.01)
    fast = Distribution(9, 0.5, 1.5, 1.0, 1.0, 1.0, 1.0, 1.5, 1000.0, 0.01)
    ratio = Ratio(0.5, 0.49, 0.51, "slower")
    points = (
        LatencyPoint({"x": (8, 4)}, 8, fast, slow, None, ratio, None, valid=True),
        LatencyPoint({"x": (9, 4)}, 9, fast, slow, None, ratio, None, valid=False, reasons=("throttled",)),
    )
    report = EngineReport("torch", "2.9", "fp16", latency=points)
    text = write_section(report, Estimate(1.0, 0.75, 1.6, ()))
    assert "| 8 | 1.0000 | 2.0000 | 0.500 | 0.490 to 0.510 |  | slower |" in text
    assert "| 9 | 1.0000 | 2.0000 | 0.500 | 0.490 to 0.510 |  | INVALID: throttled |" in text
    assert "75 % of the linear layers' operations are in pruned layers; *estimate*: at most 1.60 times" in text
