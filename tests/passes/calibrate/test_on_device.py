"""Sums and carried values on a simulated GPU."""

from pathlib import Path

import pytest
import torch

from prox24_export.passes.calibrate.frontier import Frontier, Spill
from prox24_export.passes.calibrate.moments import Moments, multiply_rows
from tests.simulated_gpu import GPU, simulate_gpu


@pytest.mark.parametrize("scale", [1.0, 3e-20, 7e25, 1.5e38])
def test_products_that_overflow_float32_are_those_of_float64(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = ((torch.rand(50, 8, generator=generator) - 0.5) * scale for _ in range(2))
    exact = left.double().T @ right.double()
    with simulate_gpu(monkeypatch) as traffic:
        found = multiply_rows(left.to(GPU), right.to(GPU))
        assert found.device == GPU
        assert (traffic.copies, traffic.reads) == ([], [])
        torch.testing.assert_close(found.cpu(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


def test_sums_are_those_of_the_cpu_and_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    dense, pruned = (torch.randn(40, 8, generator=generator) for _ in range(2))
    here = Moments.zeros(8)
    assert here.add_rows(dense, pruned, with_cross=True)
    with simulate_gpu(monkeypatch) as traffic:
        there = Moments.zeros(8, device=GPU)
        finite = there.add_rows(dense.to(GPU), pruned.to(GPU), with_cross=True)
        assert (traffic.copies, traffic.reads) == ([], [])
        assert bool(finite)
        for name in ("gram", "cross", "dense"):
            torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), rtol=0, atol=0)
        assert not there.add_rows(dense.to(GPU) / 0, pruned.to(GPU), with_cross=True)


def test_what_a_gpu_has_no_room_for_is_carried_by_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with simulate_gpu(monkeypatch) as traffic:
        value, other = torch.arange(100.0, device=GPU), torch.ones(100, device=GPU)
        frontier = Frontier(lambda _: {}, Spill(tmp_path, limit=400, limit_on_device=400), GPU)
        frontier.put(0, {"value": value}, {"value": value})
        assert traffic.copies == []
        frontier.put(1, {"other": other}, {"other": other})
        assert len(traffic.copies) == 1
        frontier.put(2, {"other": other + 1}, {})
        assert len(list(tmp_path.iterdir())) == 1  # neither has room
        assert frontier.take(0)[0]["value"] is value
        for batch, expected in ((1, other), (2, other + 1)):
            carried = frontier.take(batch)[0]["other"]
            assert carried.device == GPU
            assert bool((carried == expected).all())
