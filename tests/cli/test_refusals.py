"""What is unsuitable is refused with exit code 2, in one line, and nothing changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command import command, expect_refusal, in_process, network, samples, snapshot
from tests.graphs import model, normal, save

Case = tuple[list[object], str]


def no_model(_: Path) -> Case:
    return ["missing.onnx"], "no such model: missing.onnx"


def no_argument(_: Path) -> Case:
    return [], "MODEL requires an argument"


def unknown_option(folder: Path) -> Case:
    return [network(folder), "--sparsity", "0.5"], "Unknown option: --sparsity"


def word_for_a_number(folder: Path) -> Case:
    return [network(folder), "--seed", "five"], "--seed"


def unknown_method(folder: Path) -> Case:
    return [network(folder), "--method", "lottery"], 'Choose from: "prox"'


def limit_that_is_no_number(folder: Path) -> Case:
    return [network(folder), "--min-snr", "nan"], "--min-snr must be a number of dB. Got nan."


def not_onnx(folder: Path) -> Case:
    (folder / "net.onnx").write_text("a text file", "utf-8")
    return ["net.onnx"], "cannot be read as an ONNX model"


def empty_file(folder: Path) -> Case:
    (folder / "net.onnx").touch()
    return ["net.onnx"], "holds no graph"


def folder_for_a_model(folder: Path) -> Case:
    (folder / "net.onnx").mkdir()
    return ["net.onnx"], "no such model"


def unknown_operator(folder: Path) -> Case:
    proto = model("g (float[N,4] x) => (float[N,4] y) { y = Nonsense(x) }")
    return [save(proto, folder)], "ONNX Runtime cannot load"


def nan_in_calibration(folder: Path) -> Case:
    x = normal(20, 8)
    x[7, 3] = np.nan
    np.savez(folder / "data.npz", x=x)
    return [network(folder), "--calibration", "data.npz"], "data.npz: 'x' holds NaN or Inf, first in sample 7."


def nan_in_evaluation(folder: Path) -> Case:
    samples(folder)
    np.savez(folder / "test.npz", x=np.full((4, 8), np.inf, np.float32))
    arguments: list[object] = [network(folder), "--calibration", "data.npz", "--evaluation", "test.npz"]
    return arguments, "--evaluation test.npz: 'x' holds NaN or Inf"


def nan_in_a_weight(folder: Path) -> Case:
    weight = normal(8, 4)
    weight[2, 2] = np.nan
    proto = model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": weight})
    return [save(proto, folder)], "weight w of layer"


def wrong_name(folder: Path) -> Case:
    proto = model(
        "g (float[N,4] a, float[N,4] b) => (float[N,4] y) { c = Add(a, b) y = MatMul(c, w) }", {"w": normal(4, 4)}
    )
    np.savez(folder / "data.npz", a=normal(4, 4), z=normal(4, 4))
    return [
        save(proto, folder),
        "--calibration",
        "data.npz",
    ], "has arrays ['a', 'z']. Expected one for each input: ['a', 'b']"


def wrong_shape(folder: Path) -> Case:
    np.savez(folder / "data.npz", x=normal(20, 9))
    return [network(folder), "--calibration", "data.npz"], "'x' has shape [20, 9]. Expected [N, 8]"


def wrong_dtype(folder: Path) -> Case:
    np.savez(folder / "data.npz", x=np.zeros((20, 8), np.uint8))
    return [network(folder), "--calibration", "data.npz"], "'x' is uint8 from 0 to 0. Expected float32"


def no_such_calibration(folder: Path) -> Case:
    return [network(folder), "--calibration", "nowhere.npz"], "--calibration nowhere.npz does not exist"


def no_such_module(folder: Path) -> Case:
    return [
        network(folder),
        "--calibration",
        "nowhere:feeds",
    ], "--calibration nowhere:feeds failed: ModuleNotFoundError"


def drop_without_labels(folder: Path) -> Case:
    samples(folder)
    return [
        network(folder),
        "--calibration",
        "data.npz",
        "--max-accuracy-drop",
        "1",
    ], "--max-accuracy-drop needs labels"


def drop_without_data(folder: Path) -> Case:
    return [network(folder), "--max-accuracy-drop", "1"], "--max-accuracy-drop needs labels"


def float_labels(folder: Path) -> Case:
    samples(folder, labels=normal(20))
    return [network(folder), "--calibration", "data.npz"], "'labels' are float32. Expected integers"


def labels_that_fit_no_output(folder: Path) -> Case:
    samples(folder, labels=np.zeros((20, 3), np.int64))
    return [network(folder), "--calibration", "data.npz"], "fit no output; outputs have shapes [[4, 4]]"


def labels_of_another_number(folder: Path) -> Case:
    samples(folder, labels=np.zeros(19, np.int64))
    return [network(folder), "--calibration", "data.npz"], "'labels' has 19 entries for 20 samples"


def no_samples(folder: Path) -> Case:
    samples(folder, count=0, labels=np.zeros(0, np.int64))
    return [network(folder), "--calibration", "data.npz"], "holds no sample"


def shape_of_no_input(folder: Path) -> Case:
    return [network(folder), "--shapes", "y:1x8"], "--shapes names 'y', which is no input. The inputs are: x."


def malformed_shape(folder: Path) -> Case:
    return [network(folder), "--shapes", "x=1x8"], "--shapes must look like name:1x3x224x224 or name:MIN,OPT,MAX"


def folder_of_somebody_else(folder: Path) -> Case:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").touch()
    return [network(folder), "-o", "out", "--force"], "out holds files that are not a finished run"


def folder_with_another_report(folder: Path) -> Case:
    (folder / "out").mkdir()
    (folder / "out" / "report.json").write_text('{"tool": "coverage"}', "utf-8")
    return [network(folder), "-o", "out", "--force"], "out holds files that are not a finished run"


def file_for_an_output(folder: Path) -> Case:
    (folder / "out").touch()
    return [network(folder), "-o", "out", "--force"], "out is a file"


def model_in_the_output(folder: Path) -> Case:
    (folder / "out").mkdir()
    (folder / "out" / "report.json").write_text('{"tool": "prox24-export"}', "utf-8")
    return [network(folder / "out"), "-o", "out", "--force"], "lies inside the output folder out"


def data_in_the_output(folder: Path) -> Case:
    (folder / "out").mkdir()
    (folder / "out" / "report.json").write_text('{"tool": "prox24-export"}', "utf-8")
    data = samples(folder / "out")
    return [network(folder), "--calibration", data, "-o", "out", "--force"], "lies inside the output folder out"


def current_folder_as_output(folder: Path) -> Case:
    (folder / "elsewhere").mkdir()
    return [network(folder / "elsewhere"), "-o", ".", "--force"], "the output folder . is or holds the current folder"


REFUSED: list[Callable[[Path], Case]] = [
    no_model,
    no_argument,
    unknown_option,
    word_for_a_number,
    unknown_method,
    limit_that_is_no_number,
    not_onnx,
    empty_file,
    folder_for_a_model,
    unknown_operator,
    nan_in_calibration,
    nan_in_evaluation,
    nan_in_a_weight,
    wrong_name,
    wrong_shape,
    wrong_dtype,
    no_such_calibration,
    no_such_module,
    drop_without_labels,
    drop_without_data,
    float_labels,
    labels_that_fit_no_output,
    labels_of_another_number,
    no_samples,
    shape_of_no_input,
    malformed_shape,
    folder_of_somebody_else,
    folder_with_another_report,
    file_for_an_output,
    model_in_the_output,
    data_in_the_output,
    current_folder_as_output,
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_what_is_unsuitable_is_refused_in_one_line_and_nothing_changes(
    case: Callable[[Path], Case], tmp_path: Path, capfd: Any
) -> None:
    arguments, said = case(tmp_path)
    before = snapshot(tmp_path)
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert said in outcome.stderr


@pytest.mark.parametrize("case", [no_model, unknown_option, not_onnx, nan_in_calibration], ids=lambda c: c.__name__)
def test_a_process_of_its_own_refuses_with_exit_2_too(case: Callable[[Path], Case], tmp_path: Path) -> None:
    arguments, said = case(tmp_path)
    before = snapshot(tmp_path)
    outcome = command(*arguments, folder=tmp_path)
    expect_refusal(outcome, 2, before, tmp_path)
    assert said in outcome.stderr


def test_inspect_refuses_what_is_no_model(tmp_path: Path, capfd: Any) -> None:
    arguments, said = not_onnx(tmp_path)
    before = snapshot(tmp_path)
    outcome = in_process("inspect", *arguments, folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert said in outcome.stderr
