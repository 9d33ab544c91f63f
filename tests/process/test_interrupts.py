"""Signals are noted, raised, raised again where they were swallowed, and held back where a step must be whole."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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


def swallow(number: int) -> None:
    """Sends a signal to this process and swallows its exception, as a callback of compiled code does."""
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), number)
        pytest.fail("nothing was raised")


def swallow_and_go_on(number: int) -> None:
    swallow(number)
    assert interrupts.was_interrupted()
    raise_if_interrupted()
    pytest.fail("the next step was done")


def fail_of(number: int) -> None:
    """Sends a signal and makes another error of its exception, as an operator does that calls back."""
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt as error:
        raise RuntimeError("an operator failed") from error


def run_whole_step(number: int, done: list[str]) -> None:
    with hold_signals():
        os.kill(os.getpid(), number)
        raise_if_interrupted()
        done.append("whole")
    raise_if_interrupted()
    done.append("more")


@pytest.mark.parametrize("number", interrupts.SIGNALS)
@pytest.mark.parametrize("work", [swallow, fail_of])
def test_a_signal_that_compiled_code_swallows_or_makes_an_error_of_is_raised(
    number: int, work: Callable[[int], None]
) -> None:
    with pytest.raises(interrupts.Interrupted), catch_signals(deliver=False):
        work(number)
    assert {number: signal.getsignal(number) for number in DEFAULT} == DEFAULT


def test_it_is_raised_at_the_next_step_already() -> None:
    with pytest.raises(interrupts.Interrupted), catch_signals(deliver=False):
        swallow_and_go_on(signal.SIGTERM)


def test_a_step_that_must_be_whole_is_not_cut_short() -> None:
    done: list[str] = []
    with pytest.raises(interrupts.Interrupted), catch_signals(deliver=False):
        run_whole_step(signal.SIGTERM, done)
    assert done == ["whole"]


def test_after_the_output_is_complete_only_a_second_signal_ends_the_program() -> None:
    with catch_signals(deliver=False):
        mark_finished(Path("out"))
        os.kill(os.getpid(), signal.SIGTERM)
        raise_if_interrupted()
        assert not interrupts.was_interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.finished_output() == Path("out")


def test_a_run_that_was_interrupted_does_not_interrupt_a_later_one_in_another_thread() -> None:
    with pytest.raises(KeyboardInterrupt), catch_signals(deliver=False):
        os.kill(os.getpid(), signal.SIGINT)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with catch_signals(), hold_signals():
                raise_if_interrupted()
                mark_finished(Path("of another thread"))
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == []
    assert interrupts.finished_output() is None


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
