"""The ONNX file of a traced program: what its readers need stored is stored, and weights keep their names."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from prox24_export.errors import InputError, UnavailableError
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.emit_onnx import EmitOnnx, verify_onnx
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.trace import trace
from tests.graphs import run


class Normed(nn.Module):
    """A root mean square norm, whose axis is an integer in the program, before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        result: torch.Tensor = self.linear(scaled)
        return result


def test_axes_are_stored_and_weights_are_as_they_were(tmp_path: Path) -> None:
    module, example = Normed().eval(), torch.randn(3, 8)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    file = EmitOnnx().call(program=program, file=tmp_path / "model.onnx").path
    proto = onnx.load(file)
    stored = {tensor.name for tensor in proto.graph.initializer}
    stored |= {node.output[0] for node in proto.graph.node if node.op_type == "Constant"}
    (mean,) = (node for node in proto.graph.node if node.op_type == "ReduceMean")
    assert mean.input[1] in stored, "TensorRT's parser takes no axes that are computed"
    assert {"linear.weight", "linear.bias"} <= stored
    (found,) = run(proto, {proto.graph.input[0].name: example.numpy()})
    np.testing.assert_allclose(found, module(example).detach().numpy(), rtol=1e-4, atol=1e-6)


def test_without_onnxscript_its_absence_is_told_before_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = torch.export.export(Normed().eval(), (torch.randn(3, 8),))
    monkeypatch.setattr("prox24_export.passes.front_torch.emit_onnx.find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match=r"needs onnxscript\. Install it with: pip install onnxscript") as caught:
        EmitOnnx().call(program=program, file=tmp_path / "model.onnx")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_file_of_which_a_float32_copy_is_run_is_compared_with_the_program(dtype: torch.dtype, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).to(dtype)
    with torch.no_grad():
        for weight in (parameter for parameter in module.parameters() if parameter.ndim > 1):
            weight.view(-1, 4)[:, 2:] = 0
    program = trace(module, (torch.randn(3, 8).to(dtype),), {}, "module")
    written = OnnxGraph(EmitOnnx().call(program=program, file=tmp_path / "model.onnx").path)
    assert bool(written.runs_in_float32) == (dtype != torch.float32)
    graph = FxGraph(Path("module"), program)
    feeds = {entry.name: np.random.default_rng(0).normal(size=(3, 8)).astype(entry.dtype) for entry in graph.inputs}
    verify_onnx(written, graph, FindLinears().call(graph=graph).linears, feeds)


def test_why_the_exporter_fails_is_the_cause_that_torch_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_keywords: object) -> None:
        raise RuntimeError("This is step 3/3\nNext steps:") from ValueError("no operator for aten.mul")

    program = torch.export.export(Normed().eval(), (torch.randn(3, 8),))
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(InputError, match=r"torch cannot export the model to ONNX: no operator for aten\.mul$"):
        EmitOnnx().call(program=program, file=tmp_path / "model.onnx")
