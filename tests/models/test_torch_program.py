"""Modules, functions that return one, and `.pt2` files through the whole pipeline."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prox24_export import Settings, export, inspect
from prox24_export.errors import InputError
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.trace import trace
from prox24_export.solver.pattern import is_two_four
from tests.command import SCRIPT, in_process

BUILD = """\
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(1, 16)

def batches():
    for _ in range(4):
        yield {"input": torch.randn(8, 16)}

def wrong():
    return nn.Linear(4, 4)
"""


class Two(nn.Module):
    """Two inputs, one weight used twice, dropout that must not run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(16, 32)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(32, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        result: Tensor = self.last(self.drop(torch.relu(self.first(left) + self.first(right))))
        return result


def batches(count: int = 6) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{name: torch.randn(8, 16, generator=generator) for name in ("left", "right")} for _ in range(count)]


def loaded(path: Path) -> nn.Module:
    module: nn.Module = torch.export.load(path).module()
    return module


def test_a_module_gives_a_program_and_an_onnx_file_with_the_same_pruned_weights(tmp_path: Path) -> None:
    module = Two().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    report = export(module, iter(batches()), tmp_path / "out", settings=Settings(permute="no"))
    assert module.training
    assert module.drop.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [layer.name for layer in report.sparse_layers] == ["first", "last"]
    sparse = loaded(tmp_path / "out" / "model.pt2")
    for name, tensor in sparse.state_dict().items():
        assert is_two_four(tensor) if name.endswith("weight") else torch.equal(tensor, before[name])
    graph = OnnxGraph(tmp_path / "out" / "model.onnx")
    assert all(is_two_four(graph.weight(layer)) for layer in FindLinears().call(graph=graph).linears)
    feeds = batches(1)[0]
    (ours,) = graph.runner()({name: value.numpy() for name, value in feeds.items()})
    np.testing.assert_allclose(ours, sparse(**feeds).detach().numpy(), atol=1e-5)
    assert report.input.path == "Two"
    assert report.input.bytes == sum(tensor.nbytes for tensor in before.values())


def test_batches_may_stand_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    pairs = [tuple(batch.values()) for batch in batches()]
    reports = [export(Two(), source, tmp_path / name) for name, source in (("by_name", batches()), ("in_order", pairs))]
    errors = [[layer.relative_error for layer in report.sparse_layers] for report in reports]
    assert errors[0] == errors[1]


def test_one_tensor_is_a_batch_of_a_module_with_one_input(tmp_path: Path) -> None:
    report = export(nn.Linear(16, 8), [torch.randn(1, 16) for _ in range(8)], tmp_path / "out")
    assert report.data is not None
    assert (report.data.fit + report.data.choice, report.data.report) == (7, 1)
    assert len(report.sparse_layers) == 1


def test_inspect_takes_a_module_with_an_example() -> None:
    found = inspect(Two(), example=tuple(batches(1)[0].values()))
    assert [layer.name for layer in found] == ["first", "last"]


def test_a_module_needs_inputs_to_be_traced_on() -> None:
    with pytest.raises(InputError, match="is traced on its first calibration batch"):
        export(Two())
    with pytest.raises(InputError, match="the model is a int"):
        export(3)  # type: ignore[arg-type] # the point of the test


def test_an_exported_program_is_read_and_written(tmp_path: Path) -> None:
    program = trace(Two(), tuple(batches(1)[0].values()), {}, "two")
    torch.export.save(program, tmp_path / "two.pt2")
    report = export(tmp_path / "two.pt2", batches(), tmp_path / "out")
    assert len(report.sparse_layers) == 2
    assert (tmp_path / "out" / "model.onnx").is_file()
    again = export(tmp_path / "out" / "model.pt2", batches(), tmp_path / "again")  # what is written can be read
    assert again.input.sha256 == report.output.sha256


def test_a_function_that_returns_a_module(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(BUILD, encoding="utf-8")
    command = [SCRIPT, "mine:build", "--calibration", "mine:batches", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "; 2 of 2 prunable layers are 2:4 sparse" in done.stdout.splitlines()[0]
    assert {path.name for path in (tmp_path / "mine-build-2to4").iterdir()} >= {"model.pt2", "model.onnx"}
    for spec, said in (("mine:wrong", "mine:wrong returned a Linear"), ("mine:none", "model mine:none failed")):
        refused = in_process(spec, folder=tmp_path, capture=capfd)
        assert refused.code == 2
        assert said in refused.stderr
        assert "returns (module, example inputs)" in refused.stderr


class Normed(nn.Module):
    """What an exporter likes to fold into the weight before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return result


@pytest.mark.parametrize("refine", ["no", "all"])
def test_a_normalised_network_keeps_its_statistics(refine: Any, tmp_path: Path) -> None:
    module = Normed()
    data = [torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    report = export(module, data, tmp_path / "out", settings=Settings(refine=refine, permute="no"))
    assert len(report.sparse_layers) == 2
    after = loaded(tmp_path / "out" / "model.pt2").state_dict()
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(after[name], module.state_dict()[name])


def test_labels_beside_the_inputs_are_no_input(tmp_path: Path) -> None:
    data = [batch | {"labels": torch.zeros(8, dtype=torch.int64)} for batch in batches()]
    report = export(Two(), data, tmp_path / "out")
    assert report.accuracy is not None
    assert "top1" in report.accuracy.dense


def test_numpys_own_float_type_is_taken_as_the_models(tmp_path: Path) -> None:
    data = [{name: value.numpy().astype(np.float64) for name, value in batch.items()} for batch in batches()]
    assert len(export(Two(), data, tmp_path / "out").sparse_layers) == 2


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.pt2").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is no exported program"):
        inspect(tmp_path / "torn.pt2")
    with pytest.raises(InputError, match="no such model"):
        inspect(tmp_path / "missing.pt2")


def test_a_module_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(InputError, match=r"torch\.export cannot trace Branching"):
        export(Branching(), [torch.randn(4, 4)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_program_is_named_by_its_settings_too(tmp_path: Path) -> None:
    report = export(Two(), batches(), tmp_path / "out", settings=Settings(exclude=("last",)))
    assert [layer.name for layer in report.sparse_layers] == ["first"]


class Counting(nn.Module):
    """Adds what it has seen to a buffer, and takes it off its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        assert isinstance(self.seen, Tensor)
        self.seen.add_(y.mean(0))
        return y - self.seen


@dataclass
class Answer:
    """What `Answering` returns."""

    y: Tensor


@dataclass
class Nameless(Answer):
    """The same, of a kind that torch cannot write."""


torch.export.register_dataclass(Answer, serialized_type_name="tests.Answer")
torch.export.register_dataclass(Nameless)


class Answering(nn.Module):
    """Returns a dataclass."""

    def __init__(self, kind: type[Answer]) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(16, 8), kind

    def forward(self, x: Tensor) -> Answer:
        return self.kind(self.linear(x))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Counting(), r"Counting changes seen when it runs, and an ONNX file keeps nothing from run to run"),
        (Answering(Nameless), r"Answering returns what cannot be written: .*Nameless"),
        (
            Answering(Answer),
            r"Answering returns \S*Answer\. Expected tensors, or nested tuples, lists and dictionaries",
        ),
    ],
)
def test_what_no_file_can_hold_is_refused_before_any_work(module: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        export(module, [torch.randn(8, 16)] * 6, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_random_numbers_are_told_and_no_fault_of_the_file(tmp_path: Path) -> None:
    class Noisy(Two):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            result: Tensor = super().forward(left, right)
            return result + torch.randn_like(result)

    report = export(Noisy(), batches(), tmp_path / "out")
    assert not report.faults
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert [warning for warning in report.warnings if "draws random numbers" in warning]
