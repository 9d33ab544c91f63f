"""Masks in the page: the corner survives packing, and a page gives back what it was given."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.errors import InputError
from prox24_export.report.html import render
from prox24_export.report.html_mask import read_masks
from prox24_export.results.mask import SIDE, Thumbnail, make_thumbnail, unpack_thumbnail
from tests.report.html_example import build, masks

SIZES = st.integers(1, 130)


@given(SIZES, SIZES, st.integers(0, 2**32 - 1))
def test_the_corner_is_the_masks_own(n: int, k: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((n, k)) < 0.5
    small = make_thumbnail(mask)
    assert np.array_equal(unpack_thumbnail(small), mask[:SIDE, :SIDE])
    assert (small.n, small.k, small.kept) == (n, k, mask.sum())


def test_a_page_gives_back_its_masks_and_renders_again_to_the_same_bytes() -> None:
    report = build()
    page = render(report, masks(report))
    again = read_masks(page)
    assert list(again) == [layer.name for layer in report.sparse_layers]
    assert again == {name: make_thumbnail(mask) for name, mask in masks(report).items()}
    assert render(report, again) == page


def test_layers_that_are_gone_take_their_masks_with_them() -> None:
    report, given_masks = build(), masks(build(200))
    assert list(read_masks(render(report, given_masks))) == [layer.name for layer in report.sparse_layers]


def test_a_page_without_masks_has_none() -> None:
    page = render(build())
    assert read_masks(page) == read_masks("") == {}
    assert "Mask of a layer" not in page


@pytest.mark.parametrize("wrong", [np.ones((4, 4)), np.ones(4, bool), np.ones((2, 2, 2), bool)])
def test_what_is_no_mask_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"expected booleans of shape \[N, K\], got"):
        make_thumbnail(wrong)


GOOD = ["layer", 2, 4, 2, 4, 4, "zA=="]


def test_the_sound_entry_is_sound() -> None:
    assert read_masks(_page([GOOD])) == {"layer": Thumbnail(2, 4, 2, 4, 4, "zA==")}


@pytest.mark.parametrize(
    "entries",
    [
        "not JSON",
        [["layer", 2, 4]],
        {"layer": 3},
        7,
        [7],
        *([[*GOOD[:at], wrong, *GOOD[at + 1 :]]] for at, wrong in [(1, 3), (1, 0), (1, "2"), (2, 65), (3, 1), (5, -1)]),
        *(
            [[*GOOD[:at], wrong, *GOOD[at + 1 :]]]
            for at, wrong in [(5, 9), (6, "zAA="), (6, "!"), (6, None), (1, True)]
        ),
    ],
)
def test_an_edited_page_is_refused(entries: Any) -> None:
    with pytest.raises(InputError, match="expected masks as this program writes them"):
        read_masks(_page(entries))


def _page(entries: Any) -> str:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    return f'<script type="application/json" id="masks">{text}</script>'
