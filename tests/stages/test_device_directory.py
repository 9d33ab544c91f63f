"""A Hugging Face directory on a simulated GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from prox24_export import Settings, export
from prox24_export.results.device import DeviceReport
from prox24_export.results.report import Report
from tests.models.transformers_models import saved
from tests.simulated_gpu import simulate_gpu

# Firm damping and a fixed blend keep near ties away, in which the rounding of another kernel decides.
PLAIN: dict[str, Any] = {"engine": "none", "permute": "no", "damping": 0.1, "blend": 0.5, "effort": "fast"}


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("epochs.FEWEST", "epochs.MOST", "model.LONGEST"):
        monkeypatch.setattr(f"prox24_export.passes.refine.{name}", 1)


def test_a_directory_gives_the_masks_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("decoder", tmp_path / "dense")
    tokens = np.random.default_rng(0).integers(0, 96, (20, 8))
    np.savez(tmp_path / "data.npz", input_ids=tokens, attention_mask=np.ones_like(tokens))

    def run(device: str) -> tuple[dict[str, Any], Report]:
        settings = Settings(device=device, refine="weights", **PLAIN)
        report = export(tmp_path / "dense", tmp_path / "data.npz", tmp_path / device, settings=settings, progress=False)
        return dict(load_file(next((tmp_path / device).rglob("*.safetensors")))), report

    cpu, here = run("cpu")
    with simulate_gpu(monkeypatch) as traffic:
        gpu, there = run("cuda")
    assert there.device == DeviceReport("cuda:0", "Simulated GPU")
    assert there.refinement is not None
    assert here.refinement is not None
    assert there.refinement.before == pytest.approx(here.refinement.before, rel=1e-3)
    for name, weight in cpu.items():
        np.testing.assert_array_equal(weight != 0, gpu[name] != 0, err_msg=name)
        np.testing.assert_allclose(gpu[name], weight, atol=2e-3 * np.abs(weight).max(), err_msg=name)
    solved = sum(layer.state == "sparse" for layer in there.layers)
    outputs = 2  # of the report part, dense and sparse
    assert len(traffic.copies) <= 2 * solved + outputs, traffic.copies  # refined, or solved once more on all samples
