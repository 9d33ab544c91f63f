"""Metrics by sample against the same figures worked out by hand or another way."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Runner
from prox24_export.results.change import Change
from prox24_export.results.report import AccuracyReport
from prox24_export.validation import accuracy
from tests.graphs import normal


def compared(
    dense: Sequence[Array],
    sparse: Sequence[Array],
    labels: Array | None,
    *,
    size: int | None = None,
    next_token: str | None = None,
    tokens: Array | None = None,
) -> AccuracyReport:
    """Whole outputs against each other, in batches of `size` samples."""
    count = len(dense[0])
    size = size or count
    cuts = [slice(start, start + size) for start in range(0, count, size)]

    def model(outputs: Sequence[Array]) -> Runner:
        def run(feeds: Mapping[str, Array]) -> Sequence[Array]:
            rows = feeds["rows"]
            return [output[int(rows[0]) : int(rows[0]) + len(rows)] for output in outputs]

        return run

    rows = np.arange(count)
    batches = [
        (
            {"rows": rows[cut]} | ({} if tokens is None else {"tokens": tokens[cut]}),
            None if labels is None else labels[cut],
        )
        for cut in cuts
    ]
    names = [f"out{index}" for index in range(len(dense))]
    return accuracy.compare_models(
        model(dense), model(sparse), names, batches, samples=count, next_token=next_token, tick=lambda: None
    )


def change(report: AccuracyReport, metric: str) -> Change:
    (found,) = [one for one in report.changes if one.metric == metric]
    return found


@pytest.mark.parametrize("size", [None, 7, 1])
def test_top_5_is_the_share_whose_class_is_among_the_five_largest(size: int | None) -> None:
    dense, sparse = normal(40, 12), normal(40, 12, seed=1)
    labels = np.random.default_rng(0).integers(0, 12, 40)
    report = compared([dense], [sparse], labels, size=size)
    for found, logits in ((report.dense, dense), (report.sparse, sparse)):
        largest = np.argsort(-logits, axis=1)[:, :5]
        assert found["top5"] == pytest.approx(100 * float((largest == labels[:, None]).any(axis=1).mean()))
    assert report.better == {"top1": "higher", "top5": "higher"}
    assert change(report, "top5").value == pytest.approx(report.sparse["top5"] - report.dense["top5"])
    assert change(report, "top5").samples == 40


def test_there_is_no_top_5_of_fewer_than_ten_classes() -> None:
    assert set(compared([normal(8, 9)], [normal(8, 9)], np.zeros(8, int)).dense) == {"top1"}


def test_ties_go_to_the_lower_class_and_nan_hits_nothing() -> None:
    flat = np.zeros((10, 10))
    assert compared([flat], [flat], np.arange(10)).dense == {"top1": 10.0, "top5": 50.0}
    broken = normal(20, 10)
    labels = broken.argmax(1)
    nan = np.full_like(broken, np.nan)
    report = compared([broken], [nan], labels)
    assert report.dense == {"top1": 100.0, "top5": 100.0}
    assert report.sparse["top5"] == 0
    partly = broken.copy()
    partly[np.arange(20), labels] = np.nan
    assert compared([broken], [partly], labels).sparse["top5"] == 0


def test_a_label_of_minus_100_counts_for_nothing() -> None:
    logits = normal(6, 5, 4)
    labels = logits.argmax(-1)
    labels[0] = (labels[0] + 1) % 4
    labels[:, 3:] = -100
    labels[5] = -100
    report = compared([logits], [logits], labels, size=2)
    assert report.dense == {"top1": pytest.approx(100 * 12 / 15)}
    assert change(report, "top1").samples == 5
    first_ignored = np.concatenate([labels[5:], labels[:5]])
    moved = np.concatenate([logits[5:], logits[:5]])
    assert compared([moved], [moved], first_ignored, size=1).dense == report.dense


def test_tokens_of_one_sample_are_drawn_together() -> None:
    """All tokens of a sample change or none does: the interval is that of 20 samples, not of 2,000 tokens."""
    labels = np.zeros((20, 100), int)
    dense = np.tile([1.0, 0.0], (20, 100, 1))
    sparse = dense.copy()
    sparse[:4] = [0.0, 1.0]
    together = change(compared([dense], [sparse], labels), "top1")
    flat = change(compared([dense.reshape(-1, 2)], [sparse.reshape(-1, 2)], labels.reshape(-1)), "top1")
    assert together.value == flat.value == -20
    assert together.samples == 20
    assert together.high - together.low > 5 * (flat.high - flat.low)


def test_perplexity_changes_by_what_rows_changed_with_an_interval() -> None:
    tokens = np.random.default_rng(0).integers(0, 6, (30, 8))
    dense = normal(30, 8, 6)
    sparse = dense + 0.3 * normal(30, 8, 6, seed=1)
    report = compared([dense], [sparse], None, size=4, next_token="tokens", tokens=tokens)  # noqa: S106 (an input)
    found = change(report, "perplexity")
    assert report.better["perplexity"] == "lower"
    assert found.value == pytest.approx(report.sparse["perplexity"] - report.dense["perplexity"])
    assert found.low < found.value < found.high
    assert found.samples == 30
    shifted = dense - dense.max(axis=-1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    told = np.take_along_axis(log[:, :-1], tokens[:, 1:, None], axis=-1)
    assert report.dense["perplexity"] == pytest.approx(math.exp(-float(told.mean())))


def unit(values: Array) -> Array:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)


def test_embeddings_of_unit_length_are_measured_by_their_cosine_with_the_dense_ones() -> None:
    dense, sparse = unit(normal(25, 16)), unit(normal(25, 16) + 0.2 * normal(25, 16, seed=1))
    report = compared([dense, normal(25, 4)], [sparse, normal(25, 4)], None, size=10)
    assert report.dense == {"cosine": 1.0}
    assert report.sparse["cosine"] == pytest.approx(float((dense * sparse).sum(1).mean()))
    found = change(report, "cosine")
    assert found.value == pytest.approx(report.sparse["cosine"] - 1)
    assert found.low < found.value < found.high < 0
    both = compared([dense, dense], [sparse, dense], None)
    assert set(both.dense) == {"cosine out0", "cosine out1"}
    assert both.better == {"cosine out0": "higher", "cosine out1": "higher"}


@pytest.mark.parametrize("output", [normal(9, 8), np.eye(8)[:5], unit(normal(3, 4, 8))])
def test_logits_probabilities_and_tokens_are_no_embeddings(output: Array) -> None:
    assert compared([output], [output], None).dense == {}


def test_an_embedding_is_no_metric_where_labels_say_more() -> None:
    assert set(compared([normal(9, 3), unit(normal(9, 8))], [normal(9, 3)] * 2, np.zeros(9, int)).dense) == {"top1"}


def test_images_are_measured_against_their_reference_by_psnr() -> None:
    random = np.random.default_rng(0)
    truth = random.random((30, 3, 16, 16))
    dense, sparse = truth + 0.01, truth + 0.02
    dense[0] = truth[0]
    report = compared([dense], [sparse], truth, size=7)
    assert report.dense == {"psnr": pytest.approx((29 * 40 + 100) / 30)}  # 100 dB is the most
    assert report.sparse == {"psnr": pytest.approx(20 * math.log10(1 / 0.02))}
    assert report.better == {"psnr": "higher"}
    assert change(report, "psnr").high < 0
    (output,) = report.outputs
    span = float(dense.max() - dense.min())
    errors = ((dense - sparse) ** 2).reshape(30, -1).mean(1)
    assert output.psnr_db == pytest.approx(float((10 * np.log10(span**2 / errors)).mean()))


@pytest.mark.parametrize(("scale", "dtype"), [(255, np.uint8), (255, np.float32), (1, np.float32)])
def test_the_peak_is_that_of_the_reference_s_kind(scale: int, dtype: Any) -> None:
    truth = np.zeros((2, 16, 16, 1), dtype)
    truth[:, 0, 0] = scale
    wide = truth.astype(np.float32)
    found = compared([wide + scale / 100], [wide + scale / 10], truth).dense
    assert found == {"psnr": pytest.approx(40, abs=1e-3)}


def test_vectors_are_measured_against_their_reference_by_cosine() -> None:
    truth = normal(12, 8)
    noisy = truth + normal(12, 8, seed=1)
    noisy[3] = np.nan
    report = compared([truth], [noisy], truth)
    assert report.dense == {"cosine": pytest.approx(1.0)}
    wanted = (truth * noisy).sum(1) / np.linalg.norm(truth, axis=1) / np.linalg.norm(noisy, axis=1)
    assert report.sparse["cosine"] == pytest.approx(float(np.where(np.isnan(wanted), -1, wanted).mean()))


def test_floats_that_are_no_output_s_reference_are_refused() -> None:
    with pytest.raises(InputError, match="Floats are taken as the reference of an output of the same shape"):
        compared([normal(4, 1)], [normal(4, 1)], normal(4, 1))


def test_the_snr_has_an_interval_that_narrows_with_samples() -> None:
    def width(count: int) -> float:
        dense = normal(count, 10)
        (output,) = compared([dense], [dense + 0.1 * normal(count, 10, seed=1)], None).outputs
        assert output.snr_db is not None
        assert output.snr_low is not None
        assert output.snr_high is not None
        assert output.snr_low < output.snr_db < output.snr_high
        return output.snr_high - output.snr_low

    assert 2.5 < width(20) / width(320) < 6  # 4 by the square root of 16


def test_one_sample_and_equal_outputs_have_no_interval_of_the_snr() -> None:
    one = normal(1, 10)
    for dense, sparse in ((one, one + 1), (normal(9, 4), normal(9, 4))):
        (output,) = compared([dense], [sparse], None).outputs
        assert (output.snr_low, output.snr_high) == (None, None)
