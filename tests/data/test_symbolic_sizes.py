"""Sizes of axes with names: what is an expression, what it comes to, and that no text does harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.data.symbolic_sizes import compute_size, find_symbols

SIZES = {"past": 32, "sequence": 5, "n": 3}


@pytest.mark.parametrize(
    ("name", "symbols", "size"),
    [
        ("n", ("n",), 3),
        ("past + sequence", ("past", "sequence"), 37),
        ("past+1", ("past",), 33),
        ("2*n", ("n",), 6),
        ("n*(past - 2) + n", ("n", "past"), 93),
        ("7", (), 7),
        ("n - 3", ("n",), None),
        ("n - 4", ("n",), None),
        ("past*past*past*past", ("past",), None),
        ("other + 1", ("other",), None),
        ("other", ("other",), None),
    ],
)
def test_an_expression_depends_on_its_names_and_has_its_value(
    name: str, symbols: tuple[str, ...], size: int | None
) -> None:
    assert (find_symbols(name), compute_size(name, SIZES)) == (symbols, size)


@pytest.mark.parametrize(
    "name",
    [
        *("unk__12.0", "n**9", "n/2", "n//2", "-1", "n if n else 2", "lambda", "f(n)", "n.real", "", " ", "n +", "(n"),
        *("9" * 50, "n" + "*n" * 60, "1_000", "0x10", "__import__('os')", "(" * 90 + "n", "\0", "n;n", "n\nn"),
    ],
)
def test_other_text_is_only_a_name(name: str) -> None:
    assert find_symbols(name) == (name,)
    assert compute_size(name, {"n": 3}) is None
    assert compute_size(name, {name: 4, "n": 3}) == 4


def test_the_size_of_a_whole_expression_is_taken_where_it_is_known() -> None:
    assert compute_size("past + 1", {"past": 32, "past + 1": 8}) == 8


@given(st.text(alphabet="ab19 +-*()._\n/", max_size=120) | st.text(max_size=20))
def test_any_text_has_symbols_and_no_text_fails(name: str) -> None:
    size = compute_size(name, dict.fromkeys(find_symbols(name), 2))
    assert size is None or size >= 1
