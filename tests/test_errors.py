"""What is said of a library that cannot be imported."""

import importlib
import sys
from pathlib import Path

import pytest

from prox24_export.errors import describe_missing, first_line


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "some_library is not installed"),
        (
            {"some_library": "import other_library"},
            "some_library is installed and cannot be imported: No module named 'other_library'",
        ),
        (
            {"some_library": "from other_library import gone", "other_library": ""},
            "some_library is installed and cannot be imported: cannot import name 'gone' from 'other_library'",
        ),
        (
            {"some_library": "raise OSError('libgone.so: no such file.')"},
            "some_library is installed and cannot be imported: libgone.so: no such file",
        ),
    ],
)
def test_a_broken_library_is_not_called_missing(
    files: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ImportError, OSError)) as caught:
        importlib.import_module("some_library")
    monkeypatch.delitem(sys.modules, "other_library", raising=False)
    assert describe_missing(caught.value, "some_library").startswith(said)


def test_a_foreign_message_has_one_line_and_no_colours() -> None:
    assert first_line(RuntimeError("\n  \x1b[96mThis is\x1b[0m wrong.\nNext steps:")) == "This is wrong."
    assert first_line(RuntimeError("\x1b[0m")) == "RuntimeError"
