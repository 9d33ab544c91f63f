"""`-o x.onnx`: the model under that name, everything else in x-report, for every kind of model and every command."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from prox24_export import Settings, export, plan
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import EXTERNAL_TENSOR
from prox24_export.report import terminal
from tests.command import PREFIX, in_process, network, samples, snapshot
from tests.graphs import normal
from tests.models.transformers_models import saved

RUN = ("net.onnx", "--calibration", "data.npz", "--engine", "none", "--quiet", "-o", "x.onnx")
FAST = Settings(refine="no", permute="no", engine="none")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    network(tmp_path)
    samples(tmp_path)
    return tmp_path


def test_a_run_a_report_a_baseline_and_a_replacement(workplace: Path, capfd: Any) -> None:
    def run(*arguments: str) -> Any:
        return in_process(*arguments, folder=workplace, capture=capfd)

    first = run(*RUN, "--no-refine")
    assert first.code == 0
    assert "with the lines in x-report/DEPLOY.md.\n  trtexec --onnx=../x.onnx --sparsity=enable" in first.stdout
    assert first.stdout.splitlines()[-1].startswith("x.onnx  (")
    names = {path.name for path in workplace.iterdir()}
    assert names == {"net.onnx", "data.npz", "x.onnx", "x-report"}
    report = json.loads((workplace / "x-report" / "report.json").read_text("utf-8"))
    assert report["output"]["path"] == "x.onnx"
    assert "../x.onnx" in report["files"]
    assert not (workplace / "x-report" / "model.onnx").exists()
    deploy = (workplace / "x-report" / "DEPLOY.md").read_text("utf-8")
    assert "cp ../x.onnx triton/x/1/model.onnx" in deploy
    onnx.checker.check_model(workplace / "x.onnx", full_check=True)

    refused = run(*RUN)
    assert (refused.code, refused.stderr) == (
        2,
        f"{PREFIX}x.onnx is there already. Replace it with --force, or choose another name with -o.\n",
    )
    assert run("report", "x.onnx").stdout.startswith("x-report/report.html\n")
    (workplace / "x.onnx").write_bytes(b"changed")
    again = run(*RUN, "--no-refine", "--force")
    assert (again.code, again.stderr) == (0, "")
    onnx.checker.check_model(workplace / "x.onnx", full_check=True)
    compared = run(*RUN[:-1], "y.onnx", "--no-refine", "--exclude", "*", "--baseline", "x.onnx")
    assert compared.code == 1
    assert "baseline sparse layers" in (workplace / "y-report" / "report.json").read_text("utf-8")
    planned = run(*RUN, "--plan")
    assert planned.code == 0
    timed = run("bench", "net.onnx", "x.onnx", "-o", "z.onnx")
    assert (timed.code, timed.stderr) == (
        2,
        f"{PREFIX}--out z.onnx names a model, and bench writes a report. Give the name of a folder.\n",
    )


def test_what_is_read_is_never_the_output(workplace: Path, capfd: Any) -> None:
    before = snapshot(workplace)
    arguments = ("net.onnx", "--calibration", "data.npz", "--force", "--quiet", "-o", "net.onnx")
    outcome = in_process(*arguments, folder=workplace, capture=capfd)
    told = "net.onnx, which is read, would be replaced by the output net.onnx. Choose another name with -o."
    assert (outcome.code, outcome.stderr) == (2, f"{PREFIX}{told}\n")
    assert snapshot(workplace) == before


def test_a_run_that_was_interrupted_goes_on(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("prox24_export.pipeline.write_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export("net.onnx", "data.npz", "x.onnx", settings=FAST)
    assert {path.name for path in workplace.iterdir()} == {"net.onnx", "data.npz", "x-report.journal"}
    resumed = plan("net.onnx", "data.npz", "x.onnx", settings=FAST).resumed
    assert resumed is not None
    assert len(resumed.layers) == resumed.total == 2
    export("net.onnx", "data.npz", "x.onnx", settings=FAST)
    assert {path.name for path in workplace.iterdir()} == {"net.onnx", "data.npz", "x.onnx", "x-report"}


def test_external_data_have_the_name_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = network(tmp_path, hidden=EXTERNAL_TENSOR // 16)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.bin", size_threshold=64)
    report = export(path, [normal(20, 8)], "deep/x.onnx", settings=FAST)
    assert report.output.path == "deep/x.onnx"
    assert {"../x.onnx", "../x.onnx.data"} <= set(report.files)
    assert {file.name for file in Path("deep").iterdir()} == {"x.onnx", "x.onnx.data", "x-report"}
    dense = export(path, [normal(20, 8)], "y.onnx", settings=Settings(exclude=("*",), engine="none"))
    assert dense.sparse_layers == []
    assert Path("y.onnx.data").is_file()
    onnx.checker.check_model("y.onnx", full_check=True)
    Path("deep/copy.onnx").write_bytes(Path("deep/x.onnx").read_bytes())  # its external data are those of x.onnx
    with pytest.raises(InputError, match=r"x\.onnx\.data, which is read, would be replaced"):
        export("deep/copy.onnx", [normal(20, 8)], "deep/x.onnx", settings=Settings(force=True))


def test_of_a_torch_module_the_onnx_file_gets_the_name_and_the_program_stays_with_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    report = export(module, [torch.randn(8, 8) for _ in range(2)], "x.onnx", settings=FAST)
    assert report.output.path == "x-report/model.pt2"
    assert terminal.render(report).splitlines()[-1].startswith("x-report/model.pt2, x.onnx  (")
    assert {file.name for file in tmp_path.iterdir()} == {"x.onnx", "x-report"}
    assert not Path("x-report/model.onnx").exists()
    assert "trtexec --onnx=../x.onnx " in Path("x-report/DEPLOY.md").read_text("utf-8")
    onnx.checker.check_model("x.onnx", full_check=True)


def test_of_a_directory_the_onnx_file_is_written_though_nobody_gave_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("decoder", tmp_path / "dense")
    export("dense", out="x.onnx", settings=Settings(samples=4, refine="no", permute="no", engine="none"))
    assert {file.name for file in tmp_path.iterdir()} == {"dense", "x.onnx", "x-report"}
    assert Path("x-report/model/config.json").is_file()
    assert not Path("x-report/model.onnx").exists()
