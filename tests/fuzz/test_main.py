"""The command that runs the targets: what it says of an outcome, and which targets there are."""

from dataclasses import replace

import pytest

from fuzz.__main__ import Outcome, join, main, tabulate


def test_the_table_says_what_was_done_and_found() -> None:
    good = Outcome("open_model", 12345, 1800.0, 1593, 30, 400, (), 7)
    bad = Outcome("read_samples", 1, 0.0, None, 19, 0, ("build/fuzz/read_samples/crash-1",), 7)
    lines = tabulate([good, bad]).splitlines()
    assert lines[2] == "| `open_model` | 12,345 | 30.0 min | 1,593 | 30 | 400 | 0 | 7 |"
    assert lines[3] == "| `read_samples` | 1 | 0.0 min | not told | 19 | 0 | build/fuzz/read_samples/crash-1 | 7 |"


def test_runs_without_a_finding_add_up_and_a_finding_begins_anew() -> None:
    first, second = (Outcome("open_model", count, 60.0 * count, 1593, 30, 400, (), count) for count in (10, 20))
    both = join(first, second)
    assert (both.executions, both.seconds, both.seed) == (30, 1800.0, 20)
    assert join(None, second) == second
    assert join(replace(first, findings=("crash",)), second) == second
    assert join(first, replace(second, findings=("crash",))).findings == ("crash",)


def test_a_target_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["1", "open_door"])
    told = "no such target: open_door. Expected of open_model, read_samples, read_pictures, read_engine_log."
    assert told in capsys.readouterr().err
