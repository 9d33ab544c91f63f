"""What is refused of the dense model before any work, through the command: NaN, and outputs of no fixed size."""

from pathlib import Path

import numpy as np
import pytest

from prox24_export.data.sample_list import Sample
from prox24_export.data.samples import split_samples
from prox24_export.passes.graph.arrays import Array
from tests.command import expect_refusal, in_process, snapshot
from tests.graphs import model, normal, save

ROOTS = "g (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w) y = Sqrt(h) }"  # NaN where a product is negative
VARYING = """g (float[N,8] x) => (float[M] found, int64[1,M] places) {
    y = MatMul(x, w) large = Greater(y, zero) flat = Reshape(large, minus) found = Compress(y, flat)
    places = NonZero(found) }"""
STORED = {"w": np.abs(normal(8, 4)), "zero": np.zeros((), np.float32), "minus": np.array([-1])}


def positive(count: int) -> Array:
    return np.abs(normal(count, 8))


def prepared(folder: Path, graph: str, calibration: Array, evaluation: Array | None = None, **more: Array) -> list[str]:
    """A model and its samples, and the arguments to export it in little time."""
    save(model(graph, STORED | more), folder)
    np.savez(folder / "data.npz", x=calibration)
    arguments = ["dense.onnx", "--calibration", "data.npz", "--method", "magnitude", "--quiet"]
    if evaluation is not None:
        np.savez(folder / "test.npz", x=evaluation)
        arguments += ["--evaluation", "test.npz"]
    return arguments


@pytest.mark.parametrize("bad", [0, 3, 19])
def test_nan_on_one_of_the_first_calibration_samples_is_refused_with_its_place_in_the_file(
    bad: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = positive(20)
    x[bad] = -1
    arguments, before = prepared(tmp_path, ROOTS, x, positive(5)), snapshot(tmp_path)
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert f"model's output y holds NaN on these samples, first in sample {bad} of data.npz." in outcome.stderr
    assert "Repair the model, or leave out the samples on which it has no result." in outcome.stderr


def test_nan_on_one_sample_of_the_report_is_refused_wherever_it_lies(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = positive(70)
    x[66] = -1
    arguments, before = prepared(tmp_path, ROOTS, positive(20), x), snapshot(tmp_path)
    outcome = in_process(*arguments, "--min-snr", "5", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert "output y holds NaN on these samples, first in sample 66 of test.npz." in outcome.stderr


def test_nan_on_samples_that_are_set_aside_is_told_by_their_place_in_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = positive(20)
    bad = split_samples([Sample({"x": np.array(place)}) for place in range(20)], with_report=True, seed=0, limit=None)
    place = int(bad.report[-1].feeds["x"])
    x[place] = -1
    outcome = in_process(*prepared(tmp_path, ROOTS, x), folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    assert f"first in sample {place} of data.npz." in outcome.stderr


def test_nan_in_a_sample_that_is_larger_than_all_others_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = "g (float[N,T,8] x) => (float[N,T,4] y) { h = MatMul(x, w) y = Sqrt(h) }"
    save(model(graph, STORED), tmp_path)
    for place in range(40):
        x = np.abs(normal(1, 9 if place == 37 else 3, 8))
        np.savez(tmp_path / f"{place:02}.npz", x=-x if place == 37 else x)
    arguments = ["dense.onnx", "--calibration", ".", "--evaluation", "00.npz", "--method", "magnitude", "--quiet"]
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    assert "first in sample 37 of ." in outcome.stderr


def test_nan_on_random_inputs_is_refused_with_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(model(ROOTS, STORED), tmp_path)
    before = snapshot(tmp_path)
    outcome = in_process("dense.onnx", "--quiet", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert "output y holds NaN on random inputs, first in sample " in outcome.stderr
    assert "Give --calibration" in outcome.stderr


def test_nan_of_a_model_without_linear_layers_is_refused_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = prepared(tmp_path, "g (float[N,8] x) => (float[N,8] y) { y = Sqrt(x) }", positive(20), -positive(3))
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "first in sample 0 of test.npz." in outcome.stderr


def test_infinity_of_the_dense_model_is_a_masked_logit_and_no_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = "g (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w) y = Add(h, mask) }"
    mask = np.array([0, 0, -np.inf, 0], np.float32)
    outcome = in_process(*prepared(tmp_path, graph, positive(20), mask=mask), folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome
    assert "output y: " in outcome.stdout
    assert "NaN" not in outcome.stdout


def test_nan_of_the_sparse_model_alone_is_written_and_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weight = np.full((8, 4), 1.0, np.float32)
    weight[:2] = -1.1  # the two largest of the first four, which stay; dense sums stay positive
    graph = "g (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w) y = Sqrt(h) }"
    x = np.ones((20, 8), np.float32)
    x[:, 4:] = 0.125
    arguments = prepared(tmp_path, graph, x, w=weight)
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert outcome.code == 1, outcome
    assert "output y: NaN or Inf in 16 entries, and not in the dense model's\n" in outcome.stdout
    assert "gate finite-outputs: FAILED (16.00 entries, limit 0 entries)\n" in outcome.stdout
    assert (tmp_path / "dense-2to4" / "model.onnx").is_file()


def test_a_ratio_is_not_promised_of_outputs_that_have_another_size_for_every_sample(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, before = prepared(tmp_path, VARYING, normal(200, 8)), snapshot(tmp_path)
    outcome = in_process(*arguments, "--min-snr", "5", folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)
    assert "--min-snr needs a float output of a fixed size, and that of found depends on the data" in outcome.stderr
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome
    assert "output found: its size depends on the data (40 of 40 samples differ); not compared\n" in outcome.stdout
    assert "output places: its size depends on the data (40 of 40 samples differ); not compared\n" in outcome.stdout


def test_a_size_that_shows_only_at_the_end_leaves_the_gate_without_a_figure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weight = np.repeat(np.array([3, 2, 1, 1, 3, 2, 1, 1], np.float32)[:, None], 4, axis=1)
    row = np.array([[-1, -1, 3, 3, 0, 0, 0, 0]], np.float32)  # 1 for the dense model, −5 where 3 and 2 are kept
    arguments = prepared(tmp_path, VARYING, normal(20, 8), np.repeat(row, 5, axis=0), w=weight)
    outcome = in_process(*arguments, "--min-snr", "-100", folder=tmp_path, capture=capfd)
    assert outcome.code == 1, outcome
    assert "output found: its size depends on the data (5 of 5 samples differ); not compared\n" in outcome.stdout
    assert "gate min-snr: FAILED (not measured, limit -100 dB)\n" in outcome.stdout


def test_another_output_of_floats_answers_for_the_ratio(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = VARYING.replace("(float[M] found,", "(float[N,4] y, float[M] found,")
    arguments = prepared(tmp_path, both, normal(200, 8))
    outcome = in_process(*arguments, "--min-snr", "-100", folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome
    assert "output found: its size depends on the data" in outcome.stdout
    assert "gate min-snr: passed" in outcome.stdout
