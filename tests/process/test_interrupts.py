"""Signals are noted, raised, raised again where they were swallowed, and held back where a step must be whole."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prox24_export.process import interrupts
from prox24_export.process.interrupts import catch_signals, hold_signals, mark_finished, raise_if_interrupted


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """As in a program of its own; pytest's workers may be started with SIGINT ignored."""
    before = {number: signal.signal(number, default) for number, default in DEFAULT.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


DEFAULT: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_is_raised_and_raised_again_where_it_was_swallowed(number: int) -> None:
    with catch_signals(deliver=False):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            pass  # as a callback of compiled code does
        else:
            pytest.fail("nothing was raised")
        assert interrupts.was_interrupted()
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    assert {number: signal.getsignal(number) for number in DEFAULT} == DEFAULT


def test_a_step_that_must_be_whole_is_not_cut_short() -> None:
    done = False
    with catch_signals(deliver=False):
        with hold_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            raise_if_interrupted()
            done = True
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    assert done


def test_after_the_output_is_complete_only_a_second_signal_ends_the_program() -> None:
    with catch_signals(deliver=False):
        mark_finished(Path("out"))
        os.kill(os.getpid(), signal.SIGTERM)
        raise_if_interrupted()
        assert not interrupts.was_interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.finished_output() == Path("out")


def test_each_outermost_block_begins_anew() -> None:
    with pytest.raises(KeyboardInterrupt), catch_signals(deliver=False):
        os.kill(os.getpid(), signal.SIGHUP)
    with catch_signals(deliver=False):
        assert not interrupts.was_interrupted()
        with catch_signals():
            raise_if_interrupted()


def test_a_handler_of_the_users_own_and_an_ignored_signal_stay() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with catch_signals(deliver=False):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
    assert seen == [signal.SIGTERM]


def test_outside_the_main_thread_nothing_is_caught() -> None:
    handlers: list[object] = []

    def run() -> None:
        with catch_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]


OF_A_USER = """\
import os, signal, sys
from prox24_export.process.interrupts import catch_signals
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with catch_signals():
        try:
            os.kill(os.getpid(), int(sys.argv[1]))
        finally:
            print("cleaned up", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, -signal.SIGTERM, "cleaned up\n"),
        (signal.SIGHUP, -signal.SIGHUP, "cleaned up\n"),
        (signal.SIGINT, 0, "cleaned up\ninterrupted\n"),
    ],
)
def test_in_a_users_program_a_signal_has_its_own_effect_after_the_clean_up(number: int, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OF_A_USER, str(int(number))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, said, "")
