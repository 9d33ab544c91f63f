"""What is written beside the model never costs the model."""

from pathlib import Path

import pytest
import torch
from torch import nn

from prox24_export import Settings, export
from prox24_export.passes.front_torch.emit_onnx import OnnxMismatchError
from prox24_export.results.report import Fault


def test_an_onnx_file_that_computes_something_else_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(*_: object) -> None:
        raise OnnxMismatchError("output y of the ONNX file differs.")

    monkeypatch.setattr("prox24_export.stages.write.verify_onnx", differ)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    batches = [{"input": torch.randn(4, 16)} for _ in range(6)]
    report = export(module, batches, tmp_path / "out", settings=Settings(method="magnitude"))
    assert report.faults == (Fault("model.onnx", "output y of the ONNX file differs"),)
    assert not report.passed
    assert len(report.sparse_layers) == 2
    assert "model.pt2" in report.files
    assert not (tmp_path / "out" / "model.onnx").exists()
