"""What strangers name their layers cannot drive a terminal or begin a line of a log."""

import unicodedata
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from prox24_export.process.printable import escape, make_printable


@dataclass(frozen=True)
class Row:
    name: str
    notes: tuple[str, ...]
    facts: dict[str, object]


def test_control_characters_line_breaks_and_turned_text_are_shown_by_their_code() -> None:
    assert (
        escape("\x1b[2Jα\n::error::\u202eGNP\x9b\r\t") == "\\u001b[2Jα\\u000a::error::\\u202eGNP\\u009b\\u000d\\u0009"
    )
    assert escape("two\nlines\t", keep="\n") == "two\nlines\\u0009"


def test_texts_are_found_wherever_they_are() -> None:
    row = Row("a\nb", ("\x00",), {"k\x1b": ["\r", 1.5, None], "b": {"c": "\x07"}})
    shown = Row("a\\u000ab", ("\\u0000",), {"k\\u001b": ["\\u000d", 1.5, None], "b": {"c": "\\u0007"}})
    assert make_printable([row]) == [shown]


@given(st.text())
def test_nothing_that_is_left_is_a_control_and_doing_it_twice_changes_nothing(text: str) -> None:
    shown = escape(text)
    assert not [letter for letter in shown if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}]
    assert escape(shown) == shown
    shown.encode()
