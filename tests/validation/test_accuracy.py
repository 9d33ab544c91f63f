"""Accuracy figures against the same figures worked out by hand."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Runner
from prox24_export.results.report import AccuracyReport, OutputReport
from prox24_export.validation import accuracy
from tests.graphs import normal


def compared(
    dense: Sequence[Sequence[Any]],
    sparse: Sequence[Sequence[Any]],
    labels: Sequence[Array | None] = (),
    *,
    name: str = "out",
) -> AccuracyReport:
    """`dense[batch][output]` against `sparse`; outputs are called by `name` and their index."""

    def model(outputs: Sequence[Sequence[Array]]) -> Runner:
        def run(feeds: Mapping[str, Array]) -> Sequence[Array]:
            return outputs[int(feeds["batch"])]

        return run

    ticks: list[None] = []
    batches = [({"batch": np.array(index)}, truth) for index, truth in enumerate(labels or [None] * len(dense))]
    names = [f"{name}{index}" for index in range(len(dense[0]))]
    report = accuracy.compare_models(
        model(dense), model(sparse), names, batches, samples=42, tick=lambda: ticks.append(None)
    )
    assert len(ticks) == len(dense)
    assert report.samples == 42
    return report


def only(report: AccuracyReport) -> OutputReport:
    (output,) = report.outputs
    return output


def test_figures_of_a_small_case_worked_out_by_hand() -> None:
    dense = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    sparse = np.array([[3.0, 3.0], [2.0, 5.0]], np.float32)
    output = only(compared([[dense]], [[sparse]], name="logits_"))
    assert output.name == "logits_0"
    assert output.snr_db == pytest.approx(10 * math.log10(50 / 5))
    assert output.cosine == pytest.approx((9 + 12 + 0 + 25) / math.sqrt(50 * (9 + 9 + 4 + 25)))
    assert output.max_abs_error == 2
    assert output.argmax_agreement == 0.5  # [3, 3] says class 0, [3, 4] says class 1; the other row agrees


def test_batches_of_unequal_size_count_by_their_entries() -> None:
    dense, sparse = normal(7, 5), normal(7, 5, seed=1)
    labels = np.array([0, 1, 2, 3, 4, 0, 1])
    whole = compared([[dense]], [[sparse]], [labels])
    cut = [slice(0, 3), slice(3, 6), slice(6, 7)]
    pieces = compared([[dense[c]] for c in cut], [[sparse[c]] for c in cut], [labels[c] for c in cut])
    assert pieces.dense == whole.dense == {"top1": pytest.approx(100 * float((dense.argmax(1) == labels).mean()))}
    assert pieces.sparse == whole.sparse == {"top1": pytest.approx(100 * float((sparse.argmax(1) == labels).mean()))}
    noise = float(((dense - sparse).astype(np.float64) ** 2).sum())
    assert only(pieces).snr_db == pytest.approx(10 * math.log10(float((dense.astype(np.float64) ** 2).sum()) / noise))
    assert only(pieces).max_abs_error == pytest.approx(float(np.abs(dense - sparse).max()))
    agreement = float((dense.argmax(1) == sparse.argmax(1)).mean())
    assert only(pieces).argmax_agreement == only(whole).argmax_agreement == pytest.approx(agreement)
    assert only(pieces).cosine == pytest.approx(only(whole).cosine)


def test_equal_outputs_have_no_noise() -> None:
    x = normal(4, 3)
    output = only(compared([[x]], [[x.copy()]]))
    assert output == OutputReport("out0", None, output.cosine, 0.0, None)
    assert output.cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("dense", "sparse", "snr", "cosine"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2)), None, 1.0),
        (np.zeros((2, 2)), np.ones((2, 2)), -math.inf, 0.0),
        (np.ones((2, 2)), np.zeros((2, 2)), 0.0, 0.0),
        (np.ones((2, 2)), -np.ones((2, 2)), 10 * math.log10(1 / 4), -1.0),
    ],
)
def test_zero_and_opposite_outputs(dense: Array, sparse: Array, snr: float | None, cosine: float) -> None:
    output = only(compared([[dense]], [[sparse]]))
    assert output.snr_db == (None if snr is None else pytest.approx(snr))
    assert output.cosine == pytest.approx(cosine)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sparse_output_that_is_not_finite_is_the_worst_there_is_not_equal(bad: float) -> None:
    dense, sparse = normal(2, 3), normal(2, 3)
    sparse[1, 1] = bad
    output = only(compared([[dense]], [[sparse]]))
    assert (output.snr_db, output.cosine, output.max_abs_error) == (-math.inf, 0.0, math.inf)


def test_masked_logits_that_are_infinite_in_both_are_left_out() -> None:
    dense, sparse = normal(2, 4), normal(2, 4, seed=1)
    finite = only(compared([[dense[:, :3]]], [[sparse[:, :3]]]))
    dense[:, 3] = sparse[:, 3] = -np.inf
    masked = only(compared([[dense]], [[sparse]]))
    assert masked.snr_db == pytest.approx(finite.snr_db)
    assert masked.cosine == pytest.approx(finite.cosine)
    assert masked.max_abs_error == pytest.approx(finite.max_abs_error)


def test_outputs_that_hold_no_floats_are_compared_by_their_share_of_equal_entries() -> None:
    dense: list[Any] = [np.arange(4), normal(4, 2), [np.array([1, 2]), np.array(["a", "b"])], np.array([True] * 4)]
    sparse: list[Any] = [np.array([0, 1, 2, 9]), normal(4, 2), [np.array([1, 0]), np.array(["a", "c"])], ~dense[3]]
    report = compared([dense], [sparse])
    assert [output.name for output in report.outputs] == ["out0", "out1", "out2", "out3"]
    assert [output.equal for output in report.outputs] == [0.75, None, 0.5, 0.0]
    assert [output.has_snr for output in report.outputs] == [False, True, False, False]
    assert report.outputs[0] == OutputReport("out0", None, None, None, None, equal=0.75)
    assert report.dense == report.sparse == {}


def test_the_share_of_equal_entries_is_of_the_entries_of_all_batches() -> None:
    dense = [[np.zeros(1, int)], [np.zeros(3, int)]]
    assert only(compared(dense, [[np.ones(1, int)], [np.zeros(3, int)]])).equal == 0.75


def test_probabilities_by_class_are_an_array_of_floats_that_labels_fit() -> None:
    dense = [{"cat": 0.9, "dog": 0.1}, {"cat": 0.2, "dog": 0.8}]
    sparse = [{"cat": 0.4, "dog": 0.6}, {"cat": 0.2, "dog": 0.8}]
    as_returned = [[{key: np.float32(value) for key, value in row.items()} for row in rows] for rows in (dense, sparse)]
    report = compared([[as_returned[0]]], [[as_returned[1]]], [np.array([0, 1])])
    arrays = [np.array([[*row.values()] for row in rows], np.float32) for rows in (dense, sparse)]
    plain = compared([[arrays[0]]], [[arrays[1]]], [np.array([0, 1])])
    assert report.outputs == plain.outputs
    assert only(report).argmax_agreement == 0.5
    assert (report.dense, report.sparse) == ({"top1": 100.0}, {"top1": 50.0})


@pytest.mark.parametrize(
    ("shape", "has"), [((5,), False), ((5, 1), False), ((5, 2), True), ((2, 5, 3), True), ((2, 3, 4, 4), False)]
)
def test_arg_max_agreement_is_given_where_the_last_axis_is_named_as_classes(shape: tuple[int, ...], has: bool) -> None:
    x = normal(*shape)
    assert (only(compared([[x]], [[x]], name="logits_")).argmax_agreement is not None) is has
    assert only(compared([[x]], [[x]])).argmax_agreement is None


def test_arg_max_agreement_is_of_the_output_that_labels_are_of_and_not_of_hidden_units() -> None:
    hidden, scores = normal(4, 6), normal(4, 3)
    report = compared([[hidden, scores]], [[hidden, scores]], [scores.argmax(-1)])
    assert [output.argmax_agreement for output in report.outputs] == [None, 1.0]


@pytest.mark.parametrize("kind", [lambda p: p, np.log])
def test_rows_of_probabilities_or_their_logarithms_are_classes_only_where_every_batch_has_them(kind: Any) -> None:
    rows = np.array([[0.25, 0.75], [0.5, 0.5]], np.float16)
    assert only(compared([[kind(rows)]], [[kind(rows)]])).argmax_agreement == 1.0
    some = [[kind(rows)], [normal(2, 2)]]
    assert only(compared(some, some)).argmax_agreement is None


def test_nan_of_the_sparse_model_is_no_agreement_and_no_hit_even_where_its_place_is_right() -> None:
    scores = normal(6, 12)
    labels = scores.argmax(-1)
    broken = scores.copy()
    broken[np.arange(4), labels[:4]] = np.nan  # an arg-max of NumPy would find the NaN, and call it right
    report = compared([[scores]], [[broken]], [labels])
    assert only(report).argmax_agreement == pytest.approx(2 / 6)
    assert report.dense == {"top1": 100.0, "top5": 100.0}
    assert report.sparse == {"top1": pytest.approx(100 * 2 / 6), "top5": pytest.approx(100 * 2 / 6)}
    assert only(report).not_finite == 4


def test_nan_in_both_models_is_not_equal() -> None:
    x = np.full((3, 4), np.nan, np.float32)
    output = only(compared([[x]], [[x.copy()]]))
    assert (output.snr_db, output.cosine, output.not_finite) == (-math.inf, 0.0, 12)


def test_infinities_are_broken_entries_only_where_the_dense_output_has_none_at_all() -> None:
    dense, sparse = normal(2, 4), normal(2, 4)
    sparse[0, 1] = np.inf
    assert only(compared([[dense]], [[sparse]])).not_finite == 1
    masked = dense.copy()
    masked[1, 3] = -np.inf
    moved = only(compared([[masked]], [[sparse]]))
    assert (moved.not_finite, moved.snr_db) == (0, -math.inf)


def test_top_1_uses_the_output_that_the_labels_fit_and_every_token() -> None:
    wide, tokens = normal(2, 6), normal(2, 3, 4)
    labels = tokens.argmax(-1)
    labels[0, 0] = (labels[0, 0] + 1) % 4
    report = compared([[wide, tokens]], [[wide, -tokens]], [labels])
    assert report.dense == {"top1": pytest.approx(100 * 5 / 6)}
    assert report.sparse["top1"] == pytest.approx(100 * float(((-tokens).argmax(-1) == labels).mean()))


def test_top_1_is_of_the_logits_and_not_of_an_embedding_of_the_same_size() -> None:
    embedding, logits = normal(20, 32), normal(20, 8, seed=1)
    for outputs in ([embedding, logits], [logits, embedding]):
        report = compared([outputs], [outputs], [logits.argmax(-1)])
        assert report.dense == report.sparse == {"top1": 100.0}


def test_outputs_whose_size_depends_on_the_data_are_not_compared_and_count_no_hit() -> None:
    report = compared([[normal(4, 3)]], [[normal(2, 3)]], [normal(4, 3).argmax(-1)])
    why = "its size depends on the data (4 of 4 samples differ)"
    assert only(report) == OutputReport("out0", None, None, None, None, not_compared=why)
    assert report.dense == {"top1": 100.0}
    assert report.sparse == {"top1": 0.0}


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_one_sample_of_another_size_is_enough_for_an_output_not_to_be_compared(dtype: Any) -> None:
    same, more = np.ones((2, 3), dtype), np.ones((5, 3), dtype)
    output = only(compared([[same], [same]], [[same], [more]]))
    assert output.not_compared == "its size depends on the data (1 of 2 samples differ)"
    assert (output.snr_db, output.equal, output.has_snr) == (None, None, False)


def test_nan_is_counted_in_outputs_of_another_size_too() -> None:
    assert only(compared([[normal(4, 3)]], [[np.full((2, 3), np.nan)]])).not_finite == 6


def test_batches_without_labels_do_not_count_for_top_1() -> None:
    dense = [[np.array([[0.0, 1.0]])], [np.array([[1.0, 0.0]])]]
    assert compared(dense, dense, [None, np.array([0])]).dense == {"top1": 100.0}


@pytest.mark.parametrize(
    ("output", "labels", "said"),
    [
        (
            normal(4, 3),
            np.zeros(4, np.float32),
            "'labels' are float32. Expected integers: the index of the true class.",
        ),
        (
            normal(4, 3),
            np.zeros(5, int),
            "'labels' of shape [5] from 0 to 0 fit no output; outputs have shapes [[4, 3]].",
        ),
        (normal(4, 3), np.zeros((4, 3), int), "fit no output"),
        (normal(4, 3), np.full(4, 3), "from 3 to 3 fit no output"),
        (normal(4, 3), np.full(4, -1), "from -1 to -1 fit no output"),
        (normal(4, 1), np.zeros(4, int), "fit no output"),
        (normal(4), np.zeros(4, int), "fit no output"),
        (normal(4, 0), np.zeros(4, int), "fit no output"),
        (
            np.zeros((4, 3), int),
            np.zeros(4, int),
            "Expected one label per arg-max over the last axis of a float output, counted from 0.",
        ),
    ],
)
def test_labels_that_fit_no_output_are_refused(output: Array, labels: Array, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        compared([[output]], [[output]], [labels])
