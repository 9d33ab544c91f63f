"""Exit codes, what stands where afterwards, and what is printed: the command as a user meets it."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.command import DONE, PREFIX, SCRIPT, command, expect_refusal, in_process, network, samples, snapshot
from tests.graphs import is_two_four, model, normal, save

SIZE_LIMIT = 4096  # bytes that a process may write into one file


def planted(folder: Path) -> Path:
    """One layer, K = 4, that is always right before pruning and in half of the cases after it.

    Column 0 carries class 0 for all four unit vectors; 2:4 keeps two of its four entries.
    """
    weight = np.array([[10, 9, 0.1], [10, 9, 0.1], [10, 0.1, 9], [10, 0.1, 9]], np.float32)
    save(model("g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": weight}), folder, "net.onnx")
    np.savez(folder / "data.npz", x=np.eye(4, dtype=np.float32).repeat(4, 0), labels=np.zeros(16, np.int64))
    return folder / "net.onnx"


def test_a_run_that_succeeds_exits_0_prints_the_result_on_stdout_and_nothing_on_stderr(tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    outcome = command("net.onnx", "--calibration", "data.npz", folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("2 of 2 linear layers are 2:4 sparse")
    assert "net-2to4/model.onnx" in outcome.stdout
    written = tmp_path / "net-2to4"
    assert {path.name for path in written.iterdir()} == {
        *("model.onnx", "report.json", "report.html", "summary.md", "junit.xml")
    }
    assert before.items() <= snapshot(tmp_path).items()
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "data.npz", "net-2to4"}
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(written / "model.onnx").graph.initializer}
    assert all(is_two_four(weight.T) for weight in weights.values())


def test_nothing_eligible_exits_0_with_the_reasons_and_a_byte_copy(tmp_path: Path) -> None:
    proto = model("g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(6, 4)})
    path = save(proto, tmp_path, "net.onnx")
    outcome = command("net.onnx", folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("nothing eligible")
    assert "1 × the reduction dimension is not a multiple of 4" in outcome.stdout
    assert (tmp_path / "net-2to4" / "model.onnx").read_bytes() == path.read_bytes()


def test_a_planted_accuracy_gate_fails_with_exit_1_and_the_model_is_there(tmp_path: Path) -> None:
    planted(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--evaluation", "data.npz", "--max-accuracy-drop", "0")
    outcome = command(*arguments, folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (1, "")
    assert "top1: 100.00 % dense, 50.00 % sparse on 16 samples" in outcome.stdout
    assert "gate max-accuracy-drop: FAILED (50.00 points, limit 0 points)" in outcome.stdout
    report = json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))
    assert [(gate["name"], gate["passed"]) for gate in report["gates"]] == [("max-accuracy-drop", False)]
    assert (tmp_path / "net-2to4" / "model.onnx").is_file()


@pytest.mark.parametrize(("limit", "code"), [("100", 1), ("-100", 0)])
def test_the_signal_to_noise_gate_decides_the_exit_code(limit: str, code: int, tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "data.npz", "--min-snr", limit, folder=tmp_path, capture=capfd)
    assert outcome.code == code
    assert f"gate min-snr: {'FAILED' if code else 'passed'}" in outcome.stdout


def test_a_reader_that_went_away_does_not_hide_a_failed_gate(tmp_path: Path) -> None:
    planted(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ("net.onnx", "--evaluation", "data.npz", "--calibration", "data.npz", "--max-accuracy-drop", "0")
    done = subprocess.run(
        [SCRIPT, *arguments], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, DONE.sub("", done.stderr)) == (1, "")


def test_stdout_that_knows_only_ascii_gets_the_result_all_the_same(tmp_path: Path) -> None:
    network(tmp_path, n=5)
    outcome = command("inspect", "net.onnx", folder=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "N % 8 ? 0" in outcome.stdout


def test_a_result_that_cannot_be_printed_is_said_and_exits_4(tmp_path: Path) -> None:
    network(tmp_path)
    with Path("/dev/full").open("w") as full:
        arguments = [SCRIPT, "inspect", "net.onnx"]
        done = subprocess.run(arguments, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    said = DONE.sub("", done.stderr)
    assert said.startswith(f"{PREFIX}cannot print the result")
    assert said.count("\n") == 1


# --- refused: exit 2 ---------------------------------------------------------------------------------------------

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


def test_a_finished_run_is_replaced_only_with_force(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--method", "magnitude")
    assert in_process(*arguments, folder=tmp_path, capture=capfd).code == 0
    before = snapshot(tmp_path)
    again = in_process(*arguments, folder=tmp_path, capture=capfd)
    expect_refusal(again, 2, before, tmp_path)
    assert "net-2to4 holds a finished run. Replace it with --force" in again.stderr
    forced = in_process(*arguments, "--seed", "1", "--force", folder=tmp_path, capture=capfd)
    assert (forced.code, forced.stderr) == (0, "")
    assert snapshot(tmp_path).keys() == before.keys()
    assert json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))["settings"]["seed"] == 1


# --- failed: exit 4 ----------------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_exits_4_and_leaves_nothing(tmp_path: Path) -> None:
    network(tmp_path, hidden=256)
    samples(tmp_path)
    before = snapshot(tmp_path)
    outcome = command(
        *("net.onnx", "--calibration", "data.npz", "--method", "magnitude", "-o", "new/folders/out"),
        folder=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT)),
    )
    expect_refusal(outcome, 4, before, tmp_path)
    assert "cannot write the output" in outcome.stderr


def test_a_parent_that_cannot_hold_a_folder_exits_4_before_any_work(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    (tmp_path / "file").touch()
    before = snapshot(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "absent.npz", "-o", "file/out", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 4, before, tmp_path)
    assert "is not a folder" in outcome.stderr


def test_a_fault_of_ours_exits_4_in_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_report: object, _masks: object) -> str:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("prox24_export.report.html.render", broken)
    monkeypatch.delenv("PROX24_TRACEBACK", raising=False)
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "data.npz", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 4, before, tmp_path)
    assert outcome.stderr.startswith(f"{PREFIX}internal error: RuntimeError: two. Nothing was written.")


# --- interrupted: exit 130 ---------------------------------------------------------------------------------------

# A runner in the background starts its children with SIGINT ignored, and so would they leave it.
DEFAULT_SIGINT = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
WHILE_SOLVING = """\
import os, sys
from prox24_export import cli
from prox24_export.solver import layer

find_mask = layer.find_mask

def interrupt(*arguments):
    os.kill(os.getpid(), int(sys.argv[1]))
    return find_mask(*arguments)

layer.find_mask = interrupt
sys.exit(cli.main(["net.onnx", "--calibration", "data.npz", "-o", "new/out"]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_layers_are_solved_exits_130_and_leaves_nothing(
    sent: signal.Signals, tmp_path: Path
) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    command = [sys.executable, "-c", DEFAULT_SIGINT + WHILE_SOLVING, str(int(sent))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert DONE.sub("", done.stderr) == f"{PREFIX}interrupted; nothing was written.\n"
    assert snapshot(tmp_path) == before


WHILE_WRITING = """\
import os, sys
from prox24_export import cli
from prox24_export.report import html

def interrupt(report, masks):
    assert any(name.startswith(".out.") for name in os.listdir("."))  # the temporary folder is there
    os.kill(os.getpid(), signal.SIGINT)

html.render = interrupt
sys.exit(cli.main(["net.onnx", "--calibration", "data.npz", "-o", "out"]))
"""


def test_an_interrupt_while_the_folder_is_written_exits_130_and_leaves_no_temporary_folder(tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", DEFAULT_SIGINT + WHILE_WRITING],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert DONE.sub("", done.stderr) == f"{PREFIX}interrupted; nothing was written.\n"
    assert snapshot(tmp_path) == before


# --- the same again ----------------------------------------------------------------------------------------------


def test_the_same_command_twice_gives_the_same_bytes_and_the_seed_is_recorded(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    written, seeds = [], []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ("net.onnx", "--calibration", "data.npz", "--seed", seed, "-o", out)
        assert in_process(*arguments, folder=tmp_path, capture=capfd).code == 0
        written.append((tmp_path / out / "model.onnx").read_bytes())
        seeds.append(json.loads((tmp_path / out / "report.json").read_text("utf-8"))["settings"]["seed"])
    assert written[0] == written[1]
    assert seeds == [0, 0, 1]


def test_a_process_of_its_own_writes_the_same_bytes(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    assert in_process("net.onnx", "-o", "a", folder=tmp_path, capture=capfd).code == 0
    assert command("net.onnx", "-o", "b", folder=tmp_path).code == 0
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


# --- options -----------------------------------------------------------------------------------------------------


def test_options_may_stand_before_the_model_and_be_repeated(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    arguments = ("--include", "w0", "--include", "nothing", "--exclude", "w9", "net.onnx", "--min-snr", "-50")
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert outcome.code == 0
    assert outcome.stdout.startswith("1 of 2 linear layers are 2:4 sparse (128 weights")
    settings = json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))["settings"]
    assert (settings["include"], settings["exclude"]) == (["w0", "nothing"], ["w9"])


def test_random_inputs_are_warned_of_in_the_terminal_and_in_every_report(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    outcome = in_process("net.onnx", "--shapes", "x:3x8", folder=tmp_path, capture=capfd)
    folder = tmp_path / "net-2to4"
    said = "the masks are not based on data"
    assert said in outcome.stdout
    for name in ("report.json", "report.html", "summary.md"):
        assert said in (folder / name).read_text("utf-8"), name


@pytest.mark.parametrize("count", [1, 2, 5])
def test_so_few_samples_that_none_is_held_back_still_work(count: int, tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--samples", count)
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "warning: Too few calibration samples to hold any back" in outcome.stdout
    data = json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))["data"]
    assert data["fit"] + data["choice"] + data["report"] == count


def test_inspect_writes_no_file_and_lists_every_layer(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path, n=5)
    before = snapshot(tmp_path)
    table = in_process("inspect", "net.onnx", "--exclude", "w0", folder=tmp_path, capture=capfd)
    listed = in_process("inspect", "net.onnx", "--exclude", "w0", "--format", "json", folder=tmp_path, capture=capfd)
    assert (table.code, listed.code) == (0, 0)
    assert table.stdout.splitlines()[-1] == "1 of 2 eligible, 38.5 % of the parameters"
    rows = json.loads(listed.stdout)
    assert [(row["weight"], row["state"]) for row in rows] == [("w0", "dense"), ("w1", "sparse")]
    assert rows[0]["reason"] == "excluded by the user (--exclude w0)"
    assert rows[1]["notes"] == ["N % 8 ≠ 0: an fp16 sparse kernel is unlikely"]
    assert snapshot(tmp_path) == before


def test_inspect_refuses_what_is_no_model(tmp_path: Path, capfd: Any) -> None:
    arguments, said = not_onnx(tmp_path)
    before = snapshot(tmp_path)
    outcome = in_process("inspect", *arguments, folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert said in outcome.stderr


def test_the_plan_and_the_sensitivity_are_asked_for_one_at_a_time(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz")
    outcome = in_process(*arguments, "--plan", "--sensitivity", folder=tmp_path, capture=capfd)
    assert (outcome.code, "Leave one of them out" in outcome.stderr) == (2, True)
    alone = in_process(*arguments, "--sensitivity", "--shapes", "x:4x8", folder=tmp_path, capture=capfd)
    assert alone.code == 0, alone.stderr
    assert "loss at the outputs" in alone.stdout
    assert [line.split()[0] for line in alone.stdout.splitlines()[2:]] == ["MatMul:a", "MatMul:y"]
    assert not (tmp_path / "net-2to4").exists()


def test_a_budget_leaves_layers_dense_and_says_which(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path, count=200, labels=np.arange(200) % 4)
    arguments = ("net.onnx", "--calibration", "data.npz", "--budget", "--max-accuracy-drop", "0")
    outcome = in_process(*arguments, "--min-sparse-layers", "1", folder=tmp_path, capture=capfd)
    report = json.loads((tmp_path / "net-2to4" / "report.json").read_text())
    dense = set(report["budget"]["dense"])
    assert {layer["name"] for layer in report["layers"] if layer["state"] == "dense"} == dense
    assert report["data"]["report"] + report["budget"]["samples"] == 40  # a fifth of the samples, in two parts
    assert "budget: " in outcome.stdout
    gates = {gate["name"]: gate["passed"] for gate in report["gates"]}
    assert gates["min-sparse-layers"] == (len(dense) < 2)
    assert outcome.code == int(not all(gates.values()))
