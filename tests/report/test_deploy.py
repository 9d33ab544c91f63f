"""`DEPLOY.md`: every line is of the files that were written, and of options that the tools have."""

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from prox24_export import Settings, export
from prox24_export.output.manifest import PAGES
from prox24_export.report import deploy, files, html, markdown, model_card, terminal, triton
from prox24_export.results.budget import SensitivityReport
from prox24_export.results.interface import ModelInterface, TensorFacts
from prox24_export.results.report import Report
from tests.command import network, samples
from tests.graphs import model, normal, save
from tests.report.example import budget, build, full, nothing_eligible
from tests.report.pbtxt import parse

# As shared notes on TensorRT have them: flags of `trtexec --help`, and those that 11 took away or made no-ops.
TRTEXEC = {
    "onnx", "sparsity", "saveEngine", "minShapes", "optShapes", "maxShapes", "verbose",
}  # fmt: skip
TRTEXEC_10 = TRTEXEC | {"stronglyTyped", "noDataTransfers", "useCudaGraph", "useSpinWait", "separateProfileRun"}
PROVIDER = {  # https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    "trt_sparsity_enable",
    "trt_fp16_enable",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_detailed_build_log",
}
IMAGE = TensorFacts("image", "float32", (-1, 3, -1, 32))
IDS = TensorFacts("input ids", "int64", (-1, -1))
LOGITS = TensorFacts("logits", "float32", (-1, 10))
INTERFACE = ModelInterface((IMAGE, IDS), (LOGITS,))
FILES = ("DEPLOY.md", "model.onnx", "model.onnx.data", "report.json")


def deployed(**changes: Any) -> Report:
    return build(gates=(), interface=INTERFACE, files=FILES, compressed=8_000_000, seconds={"total": 1.0}, **changes)


def lines(report: Report, title: str) -> tuple[str, ...]:
    (step,) = [step for step in deploy.list_steps(report) if step.title == title]
    return step.lines


@pytest.mark.parametrize(("version", "known"), [("TensorRT 10", TRTEXEC_10), ("TensorRT 11", TRTEXEC)])
def test_trtexec_gets_only_options_that_its_version_knows(version: str, known: set[str]) -> None:
    both = [shlex.split(line) for line in lines(deployed(), version)]
    for words in both:
        assert words[0] == "trtexec"
        assert {word.removeprefix("--").partition("=")[0] for word in words[1:]} <= known
        assert "--onnx=model.onnx" in words
        assert "--optShapes=image:8x3x128x32,input ids:8x128" in words
    assert [word for words in both for word in words if "sparsity" in word] == [
        "--sparsity=enable",
        "--sparsity=disable",
    ]
    assert len({word for words in both for word in words if word.startswith("--saveEngine")}) == 2


def test_fixed_shapes_need_no_profile() -> None:
    fixed = ModelInterface((TensorFacts("x", "float32", (1, 8)),), (TensorFacts("y", "float32", (1, 4)),))
    for step in deploy.list_steps(replace(deployed(), interface=fixed)):
        assert "Shapes" not in "".join(step.lines)
        assert "-shapes" not in "".join(step.lines)


def test_polygraphy_gets_only_options_that_it_has() -> None:
    inspect, run = (shlex.split(line) for line in lines(deployed(), "Polygraphy"))
    assert inspect == ["polygraphy", "inspect", "sparsity", "model.onnx"]
    polygraphy = Path(sys.executable).with_name("polygraphy")
    shown = subprocess.run([polygraphy, "run", "--help"], capture_output=True, text=True, check=True).stdout
    options = {word for word in run if word.startswith("--")}
    assert options >= {"--trt", "--onnxrt", "--sparse-weights", "--trt-max-shapes"}
    assert options <= set(re.findall(r"--[a-z0-9-]+", shown))


def test_the_session_is_python_of_documented_options_and_of_a_file_that_is_there() -> None:
    tree = ast.parse("\n".join(lines(deployed(), "ONNX Runtime")))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {text for text in texts if text.startswith("trt_") and text != "trt_cache"} == PROVIDER
    assert "model.onnx" in texts


def test_triton_gets_a_configuration_that_parses_and_the_files_it_names() -> None:
    report = deployed()
    assert lines(report, "Triton, its repository") == (
        "mkdir -p triton/kwt1-2to4/1",
        "cp model.onnx triton/kwt1-2to4/1/model.onnx",
        "cp model.onnx.data triton/kwt1-2to4/1/model.onnx.data",
    )
    found = parse("\n".join(lines(report, "Triton, triton/kwt1-2to4/config.pbtxt")))
    assert found["name"] == ["kwt1-2to4"]
    assert found["platform"] == ["onnxruntime_onnx"]
    assert found["max_batch_size"] == [32]
    assert found["input"] == [
        {"name": ["image"], "data_type": ["TYPE_FP32"], "dims": [3, -1, 32]},
        {"name": ["input ids"], "data_type": ["TYPE_INT64"], "dims": [-1]},
    ]
    assert found["output"] == [{"name": ["logits"], "data_type": ["TYPE_FP32"], "dims": [10]}]
    assert found["dynamic_batching"] == [{}]
    (accelerator,) = found["optimization"][0]["execution_accelerators"][0]["gpu_execution_accelerator"]
    assert accelerator["name"] == ["tensorrt"]
    assert {entry["key"][0]: entry["value"][0] for entry in accelerator["parameters"]} == {
        "precision_mode": "FP16",
        "trt_sparsity_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/tmp/trt_cache",  # noqa: S108 - of the server, in its container
    }


def test_triton_joins_no_samples_where_an_axis_is_fixed_and_knows_tensors_without_axes() -> None:
    scalar, fixed = TensorFacts('a"b', "bool", (-1,)), TensorFacts("y", "float16", (2, 3))
    joined = parse(triton.configure("m", ModelInterface((scalar,), (LOGITS,))) or "")
    assert joined["input"][0] == {
        "name": ['a"b'], "data_type": ["TYPE_BOOL"], "dims": [1], "reshape": [{"shape": []}],
    }  # fmt: skip
    apart = parse(triton.configure("m", ModelInterface((scalar,), (fixed,))) or "")
    assert apart["max_batch_size"] == [0]
    assert "dynamic_batching" not in apart
    assert (apart["input"][0]["dims"], apart["output"][0]["dims"]) == ([-1], [2, 3])
    assert triton.configure("m", ModelInterface((TensorFacts("s", "", ()),), (LOGITS,))) is None
    assert triton.name_model("a b/c d-2to4/model.onnx") == "c_d-2to4"


def test_another_text_is_no_configuration() -> None:
    for wrong in ("name: ", 'name: "a', "input [ { }", "a: 1 }", "dims: [ 1 2 ]"):
        with pytest.raises(ValueError, match="expected"):
            parse(wrong)


def test_the_page_says_why_the_file_is_no_smaller_and_which_layers_cost_most() -> None:
    text = deploy.render(deployed())
    assert "13.42 MB before, 13.42 MB now" in text
    assert "Compressed (zlib, level 1) it takes 8.00 MB, 59.6 % of that." in text
    assert "half of the sparse layers have at most" in text
    worst = max(build().sparse_layers, key=lambda layer: layer.relative_error or 0)
    assert f"--exclude {worst.name} --exclude" in text
    assert "the outputs lose" not in text
    assert "Compressed" not in deploy.render(replace(deployed(), compressed=None))
    names = [layer.name for layer in build().sparse_layers]
    found = budget(names)
    assert isinstance(found.sensitivity, SensitivityReport)
    assert "The outputs lose 0.08 with every layer pruned." in deploy.render(deployed(budget=found))


def test_the_file_of_the_engine_is_taken_where_there_is_one() -> None:
    report = replace(deployed(), files=(*FILES, "engines/dense.fp16.onnx", "engines/sparse.fp16.onnx"))
    assert deploy.find_engine_file(report) == "engines/sparse.fp16.onnx"
    assert "--precision fp16" not in deploy.render(report)
    assert "--precision fp16" in deploy.render(deployed())


def test_terminal_summary_and_page_have_the_lines() -> None:
    report = deployed()
    trtexec = lines(report, "TensorRT 11")[0]
    assert f"  {trtexec}" in terminal.render(report).splitlines()
    summary = markdown.render(report)
    assert trtexec in summary
    assert "gpu_execution_accelerator" in summary
    page = re.sub("</?span[^>]*>", "", html.render(report))
    assert "trtexec --onnx=model.onnx --sparsity=enable" in page
    many = replace(report, interface=ModelInterface(tuple(replace(IMAGE, name=f"i{n}") for n in range(400)), (LOGITS,)))
    assert "The lines to deploy it are in DEPLOY.md." in markdown.render(many)


def test_where_nothing_is_sparse_there_is_nothing_to_deploy(tmp_path: Path) -> None:
    assert not deploy.is_deployable(replace(nothing_eligible(), interface=INTERFACE))
    assert deploy.list_steps(full()) == []  # a report of an earlier version knows no inputs
    files.write_rendered(full(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES) - {"DEPLOY.md"}


def test_a_directory_gets_the_word_on_servers_and_a_card_that_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    written = files.write_report(build(gates=(), seconds={"total": 1.0}), tmp_path)
    assert {"DEPLOY.md", "model/README.md"} <= set(written.files)
    text = (tmp_path / "DEPLOY.md").read_text(encoding="utf-8")
    assert "No server of large language models speeds up 2:4 weights today" in text
    assert "trtexec" not in text
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card == model_card.render(written)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "74 of 80 prunable layers are 2:4 sparse (9,568,256 weights, verified)" in card
    (tmp_path / "model" / "README.md").write_text("mine")
    files.write_report(build(gates=()), tmp_path)
    assert (tmp_path / "model" / "README.md").read_text() == "mine"


def test_the_lines_are_of_the_files_that_a_run_wrote(tmp_path: Path) -> None:
    settings = Settings(refine="no", precision="fp16", engine="none", permute="no")
    report = export(network(tmp_path), samples(tmp_path), tmp_path / "out", settings=settings)
    assert report.interface == ModelInterface(
        (TensorFacts("x", "float32", (-1, 8)),), (TensorFacts("y", "float32", (-1, 4)),)
    )
    assert report.compressed is not None
    assert 0 < report.compressed < report.output.bytes
    file = deploy.find_engine_file(report)
    assert file == "engines/sparse.fp16.onnx"
    graph = onnx.load(tmp_path / "out" / file).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["x", "y"]
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    text = (tmp_path / "out" / "DEPLOY.md").read_text(encoding="utf-8")
    assert text == deploy.render(report)
    for line in lines(report, "Triton, its repository")[1:]:
        assert (tmp_path / "out" / shlex.split(line)[1]).is_file()


def test_an_output_that_is_no_tensor_has_no_type(tmp_path: Path) -> None:
    text = "g (float[N,8] x) => (seq(float[N,4]) y) { h = MatMul(x, w) y = SequenceConstruct(h) }"
    path = save(model(text, {"w": normal(8, 4)}), tmp_path)
    report = export(path, samples(tmp_path), tmp_path / "out", settings=Settings(refine="no", permute="no"))
    assert report.interface.outputs == (TensorFacts("y", "", ()),)
    assert not any(step.title.startswith("Triton") for step in deploy.list_steps(report))
