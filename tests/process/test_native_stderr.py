"""What compiled code writes to stderr is not seen while it is silenced, and seen again afterwards."""

import os

import pytest

from prox24_export.process.native_stderr import STDERR, silence_native_stderr


def test_stderr_is_silent_within_the_block_alone(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with silence_native_stderr():
            os.write(STDERR, b"within")
            raise ValueError

    os.write(STDERR, b"before ")
    with pytest.raises(ValueError, match=r"^$"):
        work()
    os.write(STDERR, b"after")
    assert capfd.readouterr().err == "before after"


def test_a_closed_stderr_is_left_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "dup", fail)
    with silence_native_stderr():
        pass


def test_everything_is_seen_where_it_is_asked_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROX24_TRACEBACK", "1")
    with silence_native_stderr():
        os.write(STDERR, b"within")
    assert capfd.readouterr().err == "within"
