"""Padding by attribute: a window for every stride, and the odd entry where ONNX has it."""

import pytest

from prox24_export.passes.graph.padding import Margins, find_margins


@pytest.mark.parametrize(
    ("auto_pad", "pads", "wanted"),
    [
        ("NOTSET", [1, 2, 3, 4], [(1, 3), (2, 4)]),
        ("NOTSET", None, [(0, 0), (0, 0)]),
        ("VALID", [1, 2, 3, 4], [(0, 0), (0, 0)]),
        ("SAME_UPPER", [1, 2, 3, 4], [(2, 3), (0, 0)]),
        ("SAME_LOWER", None, [(3, 2), (0, 0)]),
    ],
)
def test_the_attributes_give_the_padding(auto_pad: str, pads: list[int] | None, wanted: Margins) -> None:
    assert find_margins((7, 9), (2, 4), (6, 1), pads, auto_pad) == wanted
