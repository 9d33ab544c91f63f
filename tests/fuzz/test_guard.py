"""What counts as a finding, and what does not."""

import logging
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from fuzz import guard
from fuzz.guard import FindingError, try_input
from prox24_export.errors import InputError, UnavailableError


def raise_input_error(data: bytes) -> None:
    raise InputError(f"{data!r} is unsuitable.")


def raise_other(_: bytes) -> None:
    raise UnavailableError("not here")


def fail(_: bytes) -> None:
    raise KeyError("x")


def warn(data: bytes) -> None:
    warnings.warn(data.decode(), stacklevel=1)


def log(data: bytes) -> None:
    logging.getLogger("stranger").warning(data.decode())


def spin(_: bytes) -> None:
    sum(range(3_000_000))


def test_the_programs_own_errors_are_no_finding() -> None:
    assert try_input(raise_input_error, b"x") == "b'x' is unsuitable."
    assert try_input(raise_other, b"x") == "not here"
    assert try_input(len, b"x") == ""


def test_any_other_error_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        try_input(fail, b"x")


@pytest.mark.parametrize("tell", [warn, log])
def test_a_warning_that_could_drive_a_terminal_is_a_finding(tell: Callable[[bytes], None]) -> None:
    assert try_input(tell, "two\tlines\nof “text”".encode()) == ""
    for text in (b"\x1b[2J", b"\x00", b"a\rb", "\x9b".encode()):
        with pytest.raises(FindingError, match="raw control characters"):
            try_input(tell, text)
    assert logging.getLogger().handlers == [one for one in logging.getLogger().handlers if "_Told" not in repr(one)]


@pytest.mark.parametrize(
    ("before", "after", "is_finding"), [(1 << 20, 2 << 30, True), (3 << 30, 3 << 30, False), (1 << 20, 1 << 29, False)]
)
def test_only_what_raises_the_peak_by_more_than_it_may_is_a_finding(
    before: int, after: int, is_finding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter((before, after))
    monkeypatch.setattr(guard, "_read_peak", lambda: next(peaks))
    monkeypatch.setattr(guard, "_read_memory", lambda: 1 << 20)
    with pytest.raises(FindingError, match="2,047 MB of memory for 1 bytes") if is_finding else nullcontext():
        assert try_input(len, b"x") == ""


def test_memory_is_read_in_bytes() -> None:
    assert 1 << 24 < guard._read_memory() <= guard._read_peak() * 1.1 < 1 << 42  # noqa: SLF001


def test_time_is_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_SECONDS", 1e-3)
    with pytest.raises(FindingError, match="seconds of processor time"):
        try_input(spin, b"x")
    assert try_input(lambda _: time.sleep(0.1), b"x") == ""
