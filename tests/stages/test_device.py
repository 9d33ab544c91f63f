"""The device of a run: which it is, and whole runs on a simulated GPU, with everything counted that comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from prox24_export import Settings, export
from prox24_export.errors import UnavailableError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.onnx_to_fx.device_function import DeviceFunction
from prox24_export.results.device import DeviceReport, HostWork
from prox24_export.results.report import Report
from prox24_export.solver.admm import ProximalAdmm
from prox24_export.stages.device import choose_devices, make_runner
from tests.command import expect_refusal, in_process, network, samples, snapshot
from tests.graphs import model, normal, opened, save
from tests.passes.calibrate.networks import GRAPHS, uvw
from tests.simulated_gpu import GPU, Traffic, simulate_gpu

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "digits"
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
# Firm damping and a fixed blend keep near ties away, in which the rounding of another runtime decides.
PLAIN: dict[str, Any] = {"engine": "none", "permute": "no", "damping": 0.1, "blend": 0.5}


@dataclass(frozen=True)
class Both:
    """The same run on the CPU and on a simulated GPU."""

    cpu: Report
    gpu: Report
    weights: Mapping[str, tuple[Array, Array]]
    traffic: Traffic

    def expect_the_same_masks(self) -> None:
        """Masks are the same; weights are, as far as rounding in float32 lets them."""
        pruned = {layer.weight for layer in self.cpu.layers if layer.state == "sparse"}
        assert pruned
        for name in pruned:
            cpu, gpu = self.weights[str(name)]
            np.testing.assert_array_equal(cpu != 0, gpu != 0, err_msg=str(name))
            np.testing.assert_allclose(gpu, cpu, atol=2e-3 * np.abs(cpu).max(), err_msg=str(name))

    def expect_few_copies(self, *, batches: int) -> None:
        """At most one a layer that is solved, one a layer that is refined, and one a batch whose outputs are read."""
        layers = sum(layer.state == "sparse" for layer in self.gpu.layers)
        refined = layers if self.gpu.refinement is not None and self.gpu.refinement.kept else 0
        assert len(self.traffic.copies) <= layers + refined + batches, self.traffic.copies


def run_both(model: Path, data: Path, folder: Path, patch: pytest.MonkeyPatch, **options: Any) -> Both:
    folder.mkdir(exist_ok=True)
    here, there = (Settings(device=device, **PLAIN | options) for device in ("cpu", "cuda"))
    cpu = export(model, data, folder / "cpu", settings=here, progress=False)
    with simulate_gpu(patch) as traffic:
        gpu = export(model, data, folder / "gpu", settings=there, progress=False)
    read = [_read_weights(folder / name) for name in ("cpu", "gpu")]
    return Both(cpu, gpu, {name: (read[0][name], read[1][name]) for name in read[0]}, traffic)


def _read_weights(folder: Path) -> dict[str, Array]:
    if (folder / "model.safetensors").is_file():
        from safetensors.numpy import load_file  # noqa: PLC0415 - of the directory's test alone

        return dict(load_file(folder / "model.safetensors"))
    file = next(file for file in folder.glob("*.onnx"))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("epochs.FEWEST", "epochs.MOST", "model.LONGEST", "model.VIEW_BATCHES"):
        monkeypatch.setattr(f"prox24_export.passes.refine.{name}", 1)


def test_the_sample_gives_the_masks_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = run_both(
        *(SAMPLE / "digits_vit.onnx", SAMPLE / "calibration.npz", tmp_path, monkeypatch),
        effort="fast",
        refine="weights",
    )
    both.expect_the_same_masks()
    assert sum(layer.state == "sparse" for layer in both.gpu.layers) == 17
    assert both.gpu.device == DeviceReport("cuda:0", "Simulated GPU")
    both.expect_few_copies(batches=5)  # the feeds of one, and two of the report part, dense and sparse
    assert both.gpu.refinement is not None
    assert both.gpu.refinement.kept
    assert both.gpu.refinement.mode == "model"


def partly_on_the_host(folder: Path) -> Path:
    """Three layers; before the second one an operator without a torch function, and sizes that are computed."""
    proto = model(
        """g (float[N,8] x) => (float[N,4] y) {
            a = MatMul(x, w0) b = Relu(a) s = Shape(b) t = Reshape(b, four) d = Det(t) u = Unsqueeze(d, last)
            v = Expand(u, s) e = Add(b, v) f = MatMul(e, w1) h = Relu(f) y = MatMul(h, w2)
        }""",
        {"w0": normal(8, 16) / 4, "w1": normal(16, 16), "w2": normal(16, 4)}
        | {"four": np.array([-1, 4, 4]), "last": np.array([1])},
    )
    return save(proto, folder, "net.onnx")


def test_an_operator_without_a_torch_function_runs_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = run_both(partly_on_the_host(tmp_path), samples(tmp_path, 40), tmp_path, monkeypatch, refine="weights")
    both.expect_the_same_masks()
    assert both.gpu.device is not None
    accuracy, calibration = both.gpu.device.on_host
    assert (calibration.work, calibration.layers) == ("calibration", ("MatMul:f",))
    assert "Det" in calibration.reason
    assert accuracy.work == "accuracy"
    assert "Det" in accuracy.reason
    assert "; calibration before MatMul:f (" in (tmp_path / "gpu" / "summary.md").read_text()
    assert both.gpu.refinement is not None
    assert "Det" in both.gpu.refinement.reason


def test_a_batch_without_room_and_all_after_it_run_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, run_there = opened(uvw(GRAPHS["residual branches"]), tmp_path), DeviceFunction.run
    told: list[HostWork] = []

    def run_small(function: DeviceFunction, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(arguments[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run_there(function, arguments)

    monkeypatch.setattr(DeviceFunction, "run", run_small)
    batches = [{"x": normal(rows, 8, seed=rows)} for rows in (4, 5, 3)]
    with simulate_gpu(monkeypatch) as traffic:
        run = make_runner(graph, GPU, batches[0], told.append)
        found = [run(feeds)[0] for feeds in batches]
    assert told == [HostWork("accuracy", "a batch does not fit into the memory of the GPU")]
    assert len(traffic.copies) == 1  # of the first batch
    for feeds, output in zip(batches, found, strict=True):
        np.testing.assert_allclose(output, graph.runner()(feeds)[0], rtol=1e-4)


def test_masks_of_baselines_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("sparsegpt", "wanda"):
        options = {"method": method, "damping": None, "blend": None}
        both = run_both(network(tmp_path), samples(tmp_path, 40), tmp_path / method, monkeypatch, **options)
        both.expect_the_same_masks()
        both.expect_few_copies(batches=3)


class TestTheTests:
    """What the simulated GPU has to find, planted."""

    def run(self, folder: Path, patch: pytest.MonkeyPatch) -> Both:
        return run_both(network(folder), samples(folder, 40), folder, patch, refine="no")

    def test_nothing_planted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        both = self.run(tmp_path, monkeypatch)
        both.expect_the_same_masks()
        both.expect_few_copies(batches=3)
        assert len(both.traffic.copies) > 2  # as many as the layers and outputs that come back

    def test_a_copy_in_an_iteration_of_the_solver_is_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = ProximalAdmm.step

        def planted(solver: ProximalAdmm, quadratic: Any, state: Any) -> Any:
            state.sparse.cpu()
            return step(solver, quadratic, state)

        monkeypatch.setattr(ProximalAdmm, "step", planted)
        both = self.run(tmp_path, monkeypatch)
        with pytest.raises(AssertionError, match=r"solver/driver\.py"):
            both.expect_few_copies(batches=3)

    def test_a_copy_in_a_stage_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = DeviceFunction.run

        def planted(function: DeviceFunction, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return run(function, [argument.cpu().to(GPU) for argument in arguments])

        monkeypatch.setattr(DeviceFunction, "run", planted)
        both = self.run(tmp_path, monkeypatch)
        with pytest.raises(AssertionError, match=r"test_device\.py"):
            both.expect_few_copies(batches=3)

    def test_tensors_of_both_devices_do_not_mix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with simulate_gpu(monkeypatch, count=2) as traffic:
            there = torch.arange(40.0, device="cuda")
            with pytest.raises(RuntimeError, match=r"aten.add.Tensor: expected all tensors to be on one device"):
                there + torch.ones(40)
            with pytest.raises(RuntimeError, match=r"on one device\. Got cuda:0 and cuda:1, of shape"):
                there + torch.ones((), device="cuda:1")
            assert (there.to("cuda:1") + 1).device.index == 1
            with pytest.raises(RuntimeError, match="numpy"):
                there.numpy()
            assert there.device == GPU
            assert float((there + 1).sum()) == 820
            assert bool((there * torch.ones((), dtype=torch.float64) > 38).any())
            assert traffic.copies == []
            assert len(traffic.reads) == 2
            np.testing.assert_array_equal(there.cpu().numpy(), np.arange(40))
            assert len(traffic.copies) == 1

    def test_views_and_gradients_are_those_of_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with simulate_gpu(monkeypatch):
            x = torch.arange(6.0, device=GPU).reshape(2, 3)
            x[0].add_(1)
            weight = torch.ones(3, 2, device=GPU, requires_grad=True)
            (x @ weight).square().sum().backward()  # type: ignore[no-untyped-call]
            assert weight.grad is not None
            assert weight.grad.device == GPU
            assert x.tolist() == [[1, 2, 3], [3, 4, 5]]
            assert weight.grad.tolist() == [[84, 84], [120, 120], [156, 156]]


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_before_any_work(device: str, tmp_path: Path, capfd: Any) -> None:
    network(tmp_path), samples(tmp_path)
    before = snapshot(tmp_path)
    done = in_process("net.onnx", "--calibration", "data.npz", "--device", device, folder=tmp_path, capture=capfd)
    expect_refusal(done, 3, before, tmp_path)
    assert f"--device {device} needs a GPU that torch sees. Got none" in done.stderr


def test_a_typing_error_is_refused(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    before = snapshot(tmp_path)
    done = in_process("net.onnx", "--device", "gpu", folder=tmp_path, capture=capfd)
    expect_refusal(done, 2, before, tmp_path)


def test_which_gpu_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = ("auto", "cpu", "cuda", "cuda:1")
    assert [str(*choose_devices(asked)) for asked in names] == ["cuda:0", "cpu", "cuda:0", "cuda:1"]
    with pytest.raises(UnavailableError, match="cuda:0 to cuda:1"):
        choose_devices("cuda:7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"kind {device.index % 2}")
    assert [*map(str, choose_devices("cuda:all"))] == ["cuda:0", "cuda:2"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [*map(str, choose_devices("auto"))] == ["cpu"]
    with pytest.raises(UnavailableError, match=r"--device cuda:all needs a GPU that torch sees\. Got none"):
        choose_devices("cuda:all")
