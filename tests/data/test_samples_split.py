"""How samples are joined into batches and parted into fit, choice and report."""

from typing import Any

import numpy as np
import pytest

from prox24_export.data import batches
from prox24_export.data import samples as data
from prox24_export.data.sample_list import Sample
from prox24_export.passes.graph.protocol import Input
from tests.data.sample_sources import X, one, read
from tests.graphs import normal


def test_samples_of_equal_shape_are_joined_and_the_last_batch_is_smaller() -> None:
    x = normal(7, 3)
    found = read([{"x": x, "labels": np.arange(7)}])
    joined = list(batches.join_samples(found, X, 3))
    assert [feeds["x"].shape for feeds, _ in joined] == [(3, 3), (3, 3), (1, 3)]
    np.testing.assert_array_equal(np.concatenate([feeds["x"] for feeds, _ in joined]), x)
    assert [labels.tolist() for _, labels in joined if labels is not None] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_has_labels_only_where_every_sample_has_some() -> None:
    found = read([{"x": normal(2, 3), "labels": np.arange(2)}, {"x": normal(2, 3)}])
    assert [labels is None for _, labels in batches.join_samples(found, X, 2)] == [False, True]
    assert [labels is None for _, labels in batches.join_samples(found, X, 4)] == [True]


@pytest.mark.parametrize("inputs", [one((1, 3)), one((4, 3)), one(None), (*X, Input("s", np.dtype(np.float32), ()))])
def test_samples_of_a_model_with_a_fixed_batch_run_one_by_one(inputs: tuple[Input, ...]) -> None:
    source: dict[str, Any] = {value.name: 1.0 if value.name == "s" else normal(8, 3) for value in inputs}
    found = read([source], inputs)
    assert len(list(batches.join_samples(found, inputs, 32))) == len(found) > 1


def test_large_samples_make_small_batches() -> None:
    assert batches.choose_batch_size([Sample({"x": np.zeros((1, 10), np.float32)})]) == batches.BATCH
    assert batches.choose_batch_size([Sample({"x": np.zeros((1, batches.BATCH_VALUES // 2), np.uint8)})]) == 2
    assert batches.choose_batch_size([Sample({"x": np.zeros((1, batches.BATCH_VALUES * 2), np.uint8)})]) == 1


def numbered(count: int) -> list[Sample]:
    return [Sample({"x": np.full((1, 3), index, np.float32)}) for index in range(count)]


def numbers(part: Any) -> list[int]:
    return [int(sample.feeds["x"][0, 0]) for sample in part]


@pytest.mark.parametrize("with_report", [True, False])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 9, 25, 100, 384])
def test_parts_are_disjoint_complete_and_of_the_promised_sizes(count: int, with_report: bool) -> None:
    parts = data.split_samples(numbered(count), with_report=with_report, seed=0, limit=None)
    fit, choice, report = numbers(parts.fit), numbers(parts.choice), numbers(parts.report)
    assert sorted(fit + choice + report) == list(range(count))
    assert [sorted(part) for part in (fit, choice, report)] == [fit, choice, report]
    wanted = max(1, count // 5) if with_report and count > 1 else 0
    assert len(report) == wanted
    assert len(choice) == (count - wanted) // 5
    assert fit


def test_the_split_depends_on_the_seed_and_on_nothing_else() -> None:
    def drawn(seed: int) -> list[list[int]]:
        parts = data.split_samples(numbered(50), with_report=True, seed=seed, limit=30)
        return [numbers(parts.fit), numbers(parts.choice), numbers(parts.report)]

    assert drawn(0) == drawn(0)
    assert all(left != right for left, right in zip(drawn(0), drawn(1), strict=True))


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (10, 10), (50, 50), (99, 50)])
def test_at_most_so_many_samples_are_used(limit: int, expected: int) -> None:
    parts = data.split_samples(numbered(50), with_report=True, seed=0, limit=limit)
    assert len(parts.fit) + len(parts.choice) + len(parts.report) == expected


def test_the_samples_used_are_drawn_not_the_first() -> None:
    parts = data.split_samples(numbered(100), with_report=False, seed=0, limit=10)
    assert sorted(numbers(parts.fit) + numbers(parts.choice)) != list(range(10))
