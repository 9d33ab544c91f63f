"""Where samples come from, what is refused, how they divide, and what is drawn at random."""

import re
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from prox24_export.data import samples as data
from prox24_export.data.random_samples import draw_random
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Input
from tests.graphs import Array, normal

Shape = tuple[int | str | None, ...] | None
X = (Input("x", np.dtype(np.float32), ("N", 3)),)
PAIR = (Input("a", np.dtype(np.float32), ("N", 3)), Input("b", np.dtype(np.int64), ("N",)))


def one(shape: Shape, dtype: Any = np.float32) -> tuple[Input]:
    return (Input("x", np.dtype(dtype), shape),)


def read(source: Any, inputs: tuple[Input, ...] = X) -> list[data.Sample]:
    return data.read_samples(source, inputs, "--calibration")


def shapes(found: list[data.Sample], name: str = "x") -> list[tuple[int, ...]]:
    return [sample.feeds[name].shape for sample in found]


def refused(said: str) -> Any:
    return pytest.raises(InputError, match=re.escape(said))


# --- sources -----------------------------------------------------------------------------------------------------


def test_arrays_of_an_npz_go_to_the_inputs_of_their_names_row_by_row(tmp_path: Path) -> None:
    a, b = normal(5, 3), np.arange(5)
    np.savez(tmp_path / "d.npz", b=b, a=a)
    found = read(tmp_path / "d.npz", PAIR)
    assert [sample.labels for sample in found] == [None] * 5
    np.testing.assert_array_equal(np.concatenate([sample.feeds["a"] for sample in found]), a)
    np.testing.assert_array_equal(np.concatenate([sample.feeds["b"] for sample in found]), b)
    assert shapes(found, "a") == [(1, 3)] * 5


def test_one_array_serves_a_one_input_model_under_any_name_and_labels_are_no_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", features=normal(4, 3), labels=np.array([3, 1, 4, 1]))
    found = read(tmp_path / "d.npz")
    assert shapes(found) == [(1, 3)] * 4
    assert [int(sample.labels[0]) for sample in found if sample.labels is not None] == [3, 1, 4, 1]


def test_labels_alone_are_no_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", labels=normal(4, 3))
    with refused("has arrays []. Expected one for each input: ['x']"):
        read(tmp_path / "d.npz")


def test_labels_are_an_input_where_the_model_says_so(tmp_path: Path) -> None:
    inputs = (Input("labels", np.dtype(np.int64), ("N",)),)
    np.savez(tmp_path / "d.npz", labels=np.arange(3))
    assert [(int(s.feeds["labels"][0]), s.labels) for s in read(tmp_path / "d.npz", inputs)] == [
        *((0, None), (1, None), (2, None))
    ]


def test_an_npy_file_serves_a_one_input_model_only(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", normal(4, 3))
    assert shapes(read(tmp_path / "d.npy")) == [(1, 3)] * 4
    with refused("has arrays ['d.npy']. Expected one for each input: ['a', 'b']"):
        read(tmp_path / "d.npy", PAIR)


def test_the_content_of_a_file_counts_not_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(2, 3))
    (tmp_path / "d.npz").rename(tmp_path / "d.dat")
    assert len(read(tmp_path / "d.dat")) == 2


def test_a_folder_is_read_in_the_order_of_its_names_with_lengths_of_their_own(tmp_path: Path) -> None:
    for name, length in (("b", 7), ("a", 5)):
        np.savez(tmp_path / f"{name}.npz", x=normal(1, length, 3))
    (tmp_path / "notes.txt").touch()
    found = read(tmp_path, one(("N", "T", 3)))
    assert shapes(found) == [(1, 5, 3), (1, 7, 3)]
    assert [feeds["x"].shape for feeds, _ in data.join_samples(found, one(("N", "T", 3)), 32)] == [(1, 5, 3), (1, 7, 3)]


def test_a_folder_without_npz_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    with refused(f"{tmp_path} is a folder without .npz files"):
        read(tmp_path)
    with refused(f"--calibration {tmp_path / 'none'} does not exist. Expected an .npz, .npy or .txt file"):
        read(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_a_file_that_is_no_numpy_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with refused("cannot be read"):
        read(tmp_path / "d.npz")


def test_pickled_objects_are_refused_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with refused("cannot be read: Object arrays cannot be loaded"):
        read(tmp_path / "d.npy")


def test_an_iterable_of_dictionaries_is_read_lists_included() -> None:
    found = read([{"x": normal(2, 3)}, {"x": [[1.0, 2.0, 3.0]]}])
    assert shapes(found) == [(1, 3)] * 3
    assert found[2].feeds["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (
            [(normal(2, 3), normal(2, 3))],
            "batch: item 0 is a tuple. Expected a dictionary of arrays by input, or 1 arr",
        ),
        (["text"], "batch: item 0 is a str. Expected a dictionary of arrays by input"),
        ([{"x": normal(1, 3)}, {"y": normal(1, 3)}], "--calibration batch 1 has arrays ['y']"),
        ([{"x": [[1.0], [1.0, 2.0]]}], "--calibration batch 0: 'x' is no array"),
        ([], "holds no sample"),
    ],
)
def test_other_items_are_refused_by_their_number(items: list[Any], said: str) -> None:
    with refused(said):
        read(items)


def module(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(f"import numpy as np\n{body}", "utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, from which no module stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_function_is_imported_from_the_current_folder_first(here: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    module(elsewhere, "feeding", "def feeds(): return []")
    module(here, "feeding", "def feeds():\n    import helping\n    yield {'x': helping.X}")
    module(here, "helping", "X = np.ones((2, 3), np.float32)")
    sys.path.insert(0, str(elsewhere))
    before = list(sys.path)
    assert shapes(read("feeding:feeds")) == [(1, 3)] * 2
    assert sys.path == before


def test_what_a_function_prints_does_not_reach_stdout(here: Path, capfd: Any) -> None:
    module(here, "talking", "def feeds():\n    print('loading')\n    yield {'x': np.ones((1, 3))}")
    assert len(read("talking:feeds")) == 1
    assert capfd.readouterr() == ("", "loading\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "AttributeError: module 'failing' has no attribute 'feeds'"),
        ("def feeds():\n    yield {'x': np.ones((1, 3))}\n    raise RuntimeError('no disk')", "RuntimeError: no disk"),
        ("def feeds(): return 5", "TypeError: 'int' object is not iterable"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("def feeds(needed): return []", "TypeError: feeds() missing 1 required positional argument"),
        ("syntax error", "SyntaxError"),
    ],
)
def test_a_function_that_fails_is_refused_with_its_own_error(body: str, said: str, here: Path) -> None:
    module(here, "failing", body)
    with refused(f"--calibration failing:feeds failed: {said}"):
        read("failing:feeds")


# --- types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.float16, np.float32),
        (np.float64, np.float32),
        (np.float32, np.float16),
        (np.float32, ml_dtypes.bfloat16),
        (np.int16, np.int32),
        (np.int64, np.int32),
        (np.uint8, np.int64),
        (np.bool_, np.bool_),
        (np.uint8, np.uint8),
    ],
)
def test_a_type_whose_values_mean_the_same_is_cast(given: Any, wanted: Any) -> None:
    array = np.array([[0, 1, 1]]).astype(given)
    (sample,) = read([{"x": array}], one(("N", 3), wanted))
    assert sample.feeds["x"].dtype == np.dtype(wanted)
    np.testing.assert_array_equal(sample.feeds["x"].astype(np.float64), array.astype(np.float64))


@pytest.mark.parametrize(
    ("array", "wanted", "said"),
    [
        (np.zeros((1, 3), np.uint8), np.float32, "'x' is uint8 from 0 to 0. Expected float32"),
        (np.zeros((1, 3), np.int64), np.float32, "'x' is int64 from 0 to 0. Expected float32"),
        (np.zeros((1, 3), np.float32), np.int64, "'x' is float32. Expected int64"),
        (np.zeros((1, 3), np.bool_), np.float32, "'x' is bool. Expected float32"),
        (np.zeros((1, 3), np.int64), np.bool_, "Expected bool"),
        (np.array([[0, 1, 2**31]]), np.int32, "'x' is int64 from 0 to 2147483648. Expected int32"),
        (np.array([[0, -1, 5]]), np.uint8, "'x' is int64 from -1 to 5. Expected uint8"),
        (np.array([["a", "b", "c"]]), np.float32, "'x' is <U1. Expected float32"),
        (np.zeros((1, 3), np.complex64), np.float32, "'x' is complex64. Expected float32"),
        (np.array([[1, 2, 1e300]]), np.float32, "'x' is float64 and too large for float32, first in sample 0."),
        (np.array([[1, 2, 7e4]], np.float32), np.float16, "'x' is float32 and too large for float16"),
    ],
)
def test_a_type_that_means_something_else_is_refused(array: Array, wanted: Any, said: str) -> None:
    with refused(said):
        read([{"x": array}], one(("N", 3), wanted))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_nan_and_inf_are_refused_with_the_array_and_the_sample(bad: float, dtype: Any) -> None:
    array = normal(9, 3).astype(dtype)
    array[6, 1] = bad
    with refused("--calibration batch 1: 'x' holds NaN or Inf, first in sample 6. Expected finite values"):
        read([{"x": normal(2, 3)}, {"x": array}])


# --- shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        (("N", 3), (6, 3), [(1, 3)] * 6),
        ((None, None, 3), (2, 7, 3), [(1, 7, 3)] * 2),
        ((1, 3), (6, 3), [(1, 3)] * 6),
        ((4, 3), (8, 3), [(4, 3)] * 2),
        ((4,), (8,), [(4,)] * 2),
        ((), (3,), [()] * 3),
        ((), (), [()]),
        (None, (2, 5, 5), [(1, 5, 5)] * 2),
    ],
)
def test_arrays_divide_into_samples_along_their_first_axis(
    declared: Shape, given: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    array = normal(*given)
    found = read([{"x": array}], one(declared))
    assert shapes(found) == expected
    np.testing.assert_array_equal(np.concatenate([s.feeds["x"].reshape(-1) for s in found]), array.reshape(-1))


@pytest.mark.parametrize(
    ("declared", "given", "said"),
    [
        (("N", 3), (6, 4), "'x' has shape [6, 4]. Expected [N, 3], the first axis running over samples."),
        (("N", 3), (3,), "'x' has shape [3]. Expected [N, 3]"),
        (("N", 3), (1, 6, 3), "'x' has shape [1, 6, 3]. Expected [N, 3]"),
        ((None, 3), (), "'x' has shape []. Expected [?, 3]"),
        ((4, 3), (6, 3), "'x' has 6 items. Expected a multiple of the model's fixed batch size 4."),
        ((), (2, 2), "'x' has shape [2, 2]. Expected []"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(declared: Shape, given: tuple[int, ...], said: str) -> None:
    with refused(said):
        read([{"x": normal(*given)}], one(declared))


def test_an_array_without_axes_is_the_same_for_every_sample() -> None:
    inputs = (*X, Input("rate", np.dtype(np.int64), ()))
    found = read([{"x": normal(4, 3), "rate": 16000}], inputs)
    assert shapes(found) == [(1, 3)] * 4
    assert [sample.feeds["rate"].shape for sample in found] == [()] * 4
    assert {int(sample.feeds["rate"]) for sample in found} == {16000}


def test_different_numbers_of_samples_are_refused() -> None:
    with refused("the arrays hold different numbers of samples: a [4, 3], b [5]. Expected the same number"):
        read([{"a": normal(4, 3), "b": np.arange(5)}], PAIR)


def test_arrays_whose_first_axes_have_nothing_to_do_with_each_other_are_one_feed() -> None:
    inputs = (Input("x", np.dtype(np.float32), ("T", 3)), Input("state", np.dtype(np.float32), ("layers", 2)))
    (sample,) = read([{"x": normal(7, 3), "state": normal(4, 2)}], inputs)
    assert (sample.feeds["x"].shape, sample.feeds["state"].shape) == ((7, 3), (4, 2))


@pytest.mark.parametrize(
    ("labels", "expected"), [(np.arange(8), (4,)), (np.zeros((2, 5), int), (1, 5)), (np.arange(2), (1,))]
)
def test_labels_divide_as_the_samples_do(labels: Array, expected: tuple[int, ...]) -> None:
    found = read([{"x": normal(8, 3), "labels": labels}], one((4, 3)))
    assert [sample.labels.shape for sample in found if sample.labels is not None] == [expected] * 2


def test_a_single_label_needs_no_axis() -> None:
    (sample,) = read([{"x": normal(1, 3), "labels": 2}])
    assert sample.labels is not None
    assert sample.labels.tolist() == [2]


# --- batches -----------------------------------------------------------------------------------------------------


def test_samples_of_equal_shape_are_joined_and_the_last_batch_is_smaller() -> None:
    x = normal(7, 3)
    found = read([{"x": x, "labels": np.arange(7)}])
    joined = list(data.join_samples(found, X, 3))
    assert [feeds["x"].shape for feeds, _ in joined] == [(3, 3), (3, 3), (1, 3)]
    np.testing.assert_array_equal(np.concatenate([feeds["x"] for feeds, _ in joined]), x)
    assert [labels.tolist() for _, labels in joined if labels is not None] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_has_labels_only_where_every_sample_has_some() -> None:
    found = read([{"x": normal(2, 3), "labels": np.arange(2)}, {"x": normal(2, 3)}])
    assert [labels is None for _, labels in data.join_samples(found, X, 2)] == [False, True]
    assert [labels is None for _, labels in data.join_samples(found, X, 4)] == [True]


@pytest.mark.parametrize("inputs", [one((1, 3)), one((4, 3)), one(None), (*X, Input("s", np.dtype(np.float32), ()))])
def test_samples_of_a_model_with_a_fixed_batch_run_one_by_one(inputs: tuple[Input, ...]) -> None:
    source: dict[str, Any] = {value.name: 1.0 if value.name == "s" else normal(8, 3) for value in inputs}
    found = read([source], inputs)
    assert len(list(data.join_samples(found, inputs, 32))) == len(found) > 1


def test_large_samples_make_small_batches() -> None:
    assert data.choose_batch_size([data.Sample({"x": np.zeros((1, 10), np.float32)})]) == data.BATCH
    assert data.choose_batch_size([data.Sample({"x": np.zeros((1, data.BATCH_VALUES // 2), np.uint8)})]) == 2
    assert data.choose_batch_size([data.Sample({"x": np.zeros((1, data.BATCH_VALUES * 2), np.uint8)})]) == 1


# --- split -------------------------------------------------------------------------------------------------------


def numbered(count: int) -> list[data.Sample]:
    return [data.Sample({"x": np.full((1, 3), index, np.float32)}) for index in range(count)]


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


# --- random inputs -----------------------------------------------------------------------------------------------


def random(
    inputs: tuple[Input, ...], count: int = 8, rows: Any = None, given: Any = None, seed: int = 0
) -> list[data.Sample]:
    return draw_random(inputs, rows or {}, given or {}, count, seed)


def values(found: list[data.Sample]) -> Array:
    return np.concatenate([sample.feeds["x"].reshape(-1) for sample in found])


def test_dynamic_axes_are_1_and_32_and_fixed_ones_as_declared() -> None:
    assert shapes(random(one(("N", None, "T", 5)), 2)) == [(1, 32, 32, 5)] * 2
    assert shapes(random(one((4, 5)), 2)) == [(4, 5)] * 2


def test_given_shapes_are_used_for_unknown_ranks_too() -> None:
    assert shapes(random(one(("N", 3, "H", "W")), 1, given={"x": (2, 3, 8, 9)})) == [(2, 3, 8, 9)]
    assert shapes(random(one(None), 1, given={"x": (1, 7)})) == [(1, 7)]


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        (("N", 3), {"x": (1, 4)}, "--shapes gives 'x' [1, 4]. Expected [N, 3]."),
        (("N", 3), {"x": (1, 3, 1)}, "--shapes gives 'x' [1, 3, 1]. Expected [N, 3]."),
        (("N", 3), {"z": (1, 3), "y": (1, 3)}, "--shapes names 'y', which is no input. The inputs are: x."),
        (None, {}, "input 'x' declares no rank. Give its shape: --shapes x:1x3x224x224."),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: Shape, given: Any, said: str) -> None:
    with refused(said):
        random(one(shape), given=given)


@pytest.mark.parametrize(
    ("dtype", "rows", "low", "high"),
    [
        (np.int64, {"x": 7}, 0, 6),
        (np.int32, {}, 0, 255),
        (np.int64, {}, 0, 255),
        (np.uint8, {}, 0, 255),
        (np.uint8, {"x": 1000}, 0, 255),
        (np.int8, {}, 0, 127),
        (np.int64, {"x": 1}, 0, 0),
        (np.int64, {"x": 5000}, 0, 4999),
    ],
)
def test_integers_stay_below_the_rows_of_their_table_and_cover_the_range(
    dtype: Any, rows: dict[str, int], low: int, high: int
) -> None:
    drawn = values(random(one(("N", 4000), dtype), 20, rows))
    assert drawn.dtype == np.dtype(dtype)
    assert (int(drawn.min()), int(drawn.max())) == (low, high)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_are_normal(dtype: Any) -> None:
    drawn = values(random(one(("N", 4000), dtype)))
    assert drawn.dtype == np.dtype(dtype)
    wide = drawn.astype(np.float64)
    assert abs(wide.mean()) < 0.05
    assert abs(wide.std() - 1) < 0.05


def test_booleans_are_both_and_scalars_are_1() -> None:
    assert set(values(random(one(("N", 64), np.bool_))).tolist()) == {False, True}
    for dtype in (np.float32, np.int64, np.bool_, np.uint8):
        assert values(random(one((), dtype))).tolist() == [1] * 8


def test_other_types_cannot_be_drawn() -> None:
    with refused("input 'x' is object: no random values can be drawn. Give --calibration."):
        random(one(("N",), object))


def test_random_samples_follow_the_seed_and_differ_from_each_other() -> None:
    first, again, other = (values(random(X, 2, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:3], first[3:])
