"""`--shapes`: trtexec's syntax and ours, against golden cases, a round trip, and adversarial text."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.errors import InputError
from prox24_export.shapes import ShapeRange, complete_ranges, parse_shapes

IMAGE = ShapeRange((1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224))


def same(*shape: int) -> ShapeRange:
    return ShapeRange(shape, shape, shape)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["x:1x3x224x224,8x3x224x224,32x3x224x224"], {"x": IMAGE}),
        (["x:8x3x224x224"], {"x": same(8, 3, 224, 224)}),
        (["x:8X3"], {"x": same(8, 3)}),
        (["a:1x8,4x128,8x512,b:1x8"], {"a": ShapeRange((1, 8), (4, 128), (8, 512)), "b": same(1, 8)}),
        (["a:1x8,b:1x8"], {"a": same(1, 8), "b": same(1, 8)}),
        (["a:1x8", "b:2"], {"a": same(1, 8), "b": same(2)}),
        (["input:0:1x3"], {"input:0": same(1, 3)}),
        (["'Input:0':1x3,'a,b':2x2,4x2,8x2"], {"Input:0": same(1, 3), "a,b": ShapeRange((2, 2), (4, 2), (8, 2))}),
        (["s:scalar,x:1x3"], {"s": same(), "x": same(1, 3)}),
        (["s:"], {"s": same()}),
        ([" x:1x3 , 2x3 , 4x3 "], {"x": ShapeRange((1, 3), (2, 3), (4, 3))}),
        (["/encoder/x.1:1x3"], {"/encoder/x.1": same(1, 3)}),
        (["'x:1x3"], {"'x": same(1, 3)}),
        ([], {}),
    ],
)
def test_every_form_is_read(texts: list[str], wanted: Mapping[str, ShapeRange]) -> None:
    assert parse_shapes(texts) == wanted


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must look like name:1x3x224x224"),
        ("x", "'x' is no shape of an input"),
        ("1x3", "'1x3' is no shape of an input"),
        ("x:1x", "'x:1x' is no shape"),
        ("x:-1x3", "'x:-1x3' is no shape"),
        ("x:1x3,,2x3", "'' is no shape"),
        ("x:1x3,y", "'y' is no shape"),
        (":1x3", "':1x3' is no shape"),
        ("'':1x3", "'1x3' is no shape"),
        ("x:" + "9" * 5000, "is no shape"),
        ("x:1x3,2x3", "one shape or three .* Got 2"),
        ("x:1x3,2x3,4x3,8x3", "one shape or three .* Got 4"),
        ("input:0", "at least 1. .* Quote a name that ends in a number"),
        ("x:1x3,2x3x3,4x3", "as many axes in each shape of 'x'"),
        ("x:4x3,2x3,8x3", "from smallest to largest along every axis of 'x'"),
        ("x:1x3,x:1x3", "each input once. Got 'x' twice"),
    ],
)
def test_what_is_no_shape_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_shapes([text])


axes = st.lists(st.tuples(*[st.integers(1, 4096)] * 3).map(lambda sizes: tuple(sorted(sizes))), max_size=5)
ranges = axes.map(lambda found: ShapeRange(*(tuple(axis[side] for axis in found) for side in range(3))))
names = st.text(st.characters(exclude_characters="'", exclude_categories=["Cs", "Cc", "Z"]), min_size=1)


@given(st.dictionaries(names, ranges, max_size=4))
def test_quoted_names_and_any_range_come_back(wanted: dict[str, ShapeRange]) -> None:
    text = ",".join(f"'{name}':{shapes}" for name, shapes in wanted.items())
    assert parse_shapes([text] if text else []) == wanted


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_shapes([text])
    except InputError:
        return
    assert all(size >= 1 for shapes in found.values() for size in (*shapes.min, *shapes.opt, *shapes.max))
    assert all(
        a <= b <= c for shapes in found.values() for a, b, c in zip(shapes.min, shapes.opt, shapes.max, strict=True)
    )


def test_inputs_left_out_get_the_shape_of_their_example_or_their_fixed_one() -> None:
    declared = {"x": (None, 3, 224, 224), "mask": (None, 8), "scale": (1,)}
    found = complete_ranges({"x": IMAGE}, declared, {"mask": (4, 8)})
    assert found == {"x": IMAGE, "mask": same(4, 8), "scale": same(1)}


@pytest.mark.parametrize(
    ("given_ranges", "example", "complaint"),
    [
        ({"y": same(1, 3)}, {}, "names 'y'. Expected inputs of the model: x"),
        ({"x": same(1, 4)}, {}, re.escape("input 'x' is declared as ?x3, ? being any size. Got 1x4")),
        ({"x": same(3)}, {}, re.escape("declared as ?x3")),
        ({"x": ShapeRange((1, 3), (1, 3), (1, 5))}, {}, "Got 1x5"),
        ({}, {}, "has dynamic axes. Give its sizes: --shapes x:MIN,OPT,MAX"),
        ({}, {"x": (2, 5)}, "Got 2x5"),
    ],
)
def test_ranges_that_do_not_fit_the_model_are_refused(
    given_ranges: Mapping[str, ShapeRange], example: Mapping[str, tuple[int, ...]], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        complete_ranges(given_ranges, {"x": (None, 3)}, example)
