"""What compiled code writes to stdout and stderr is not seen while it is silenced, and seen again afterwards."""

import os

import pytest

from prox24_export.process.native_output import STDERR, STDOUT, silence_native_output


@pytest.mark.parametrize(("descriptor", "stream"), [(STDOUT, 0), (STDERR, 1)])
def test_it_is_silent_within_the_block_alone(descriptor: int, stream: int, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with silence_native_output():
            os.write(descriptor, b"within")
            raise ValueError

    os.write(descriptor, b"before ")
    with pytest.raises(ValueError, match=r"^$"):
        work()
    os.write(descriptor, b"after")
    assert capfd.readouterr()[stream] == "before after"


def test_a_closed_descriptor_is_left_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "dup", fail)
    with silence_native_output():
        pass


def test_everything_is_seen_where_it_is_asked_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROX24_TRACEBACK", "1")
    with silence_native_output():
        os.write(STDERR, b"within")
    assert capfd.readouterr().err == "within"
