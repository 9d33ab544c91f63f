"""A GPU that lacks kernels: without torch's own it is not used, and without the solver's torch's take their place."""

from pathlib import Path
from typing import Any

import pytest
import torch

import prox24_export.solver
from prox24_export import Settings, export
from prox24_export.errors import UnavailableError
from prox24_export.solver.prox import find_kernel_fault, prox24, prox24_reference
from prox24_export.stages.device_kernels import find_fault, find_usable_device
from tests.command import network
from tests.graphs import normal
from tests.simulated_gpu import GPU, simulate_gpu

TOLD = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be reported late"


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones

    def refuse(*sizes: int, device: Any = None) -> torch.Tensor:
        if device is not None and device.type == "cuda":
            raise RuntimeError(TOLD)
        return ones(*sizes)

    monkeypatch.setattr(torch, "ones", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla K80")


@pytest.mark.usefixtures("old_gpu")
def test_auto_takes_the_cpu_and_warns(tmp_path: Path) -> None:
    data = [{"x": normal(1, 8, seed=seed)} for seed in range(12)]
    settings = Settings(method="magnitude", engine="none", permute="no")
    report = export(network(tmp_path), data, tmp_path / "out", settings=settings)
    assert report.device is not None
    assert report.device.name == "cpu"
    said = "cannot compute on cuda:0, Tesla K80: CUDA error: no kernel image is available for execution on the device."
    assert any(said in warning for warning in report.warnings)


@pytest.mark.usefixtures("old_gpu")
def test_a_gpu_that_is_asked_for_is_refused() -> None:
    with pytest.raises(UnavailableError, match=r"--device cuda: .*, Tesla K80: CUDA error: no kernel image") as caught:
        find_usable_device("cuda", [])
    assert caught.value.exit_code == 3
    assert [find_usable_device(asked, []) for asked in ("cpu", "cuda:7")] == ["cpu", "cuda:7"]


def test_a_device_that_computes_has_no_fault() -> None:
    assert find_fault(torch.device("cpu")) is None


def test_a_gpu_on_which_the_kernels_fail_takes_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no C compiler.\nInstall one.")

    z, warnings = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), list[str]()
    find_kernel_fault.cache_clear()
    with simulate_gpu(monkeypatch):
        assert find_kernel_fault(GPU) is None
        find_kernel_fault.cache_clear()
        monkeypatch.setattr(prox24_export.solver.kernels_cuda, "prox", fail)
        assert torch.equal(prox24(z.to(GPU), 0.5).cpu(), prox24_reference(z, 0.5).float())
        assert find_usable_device("cuda", warnings) == "cuda"
    find_kernel_fault.cache_clear()
    assert warnings == ["The mask solver takes torch's own kernels on cuda:0, which are slower: no C compiler."]
