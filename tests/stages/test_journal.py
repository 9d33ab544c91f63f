"""The journal: how often the refinement is saved."""

import time
from pathlib import Path

import pytest
import torch

from prox24_export.output.records import Records
from prox24_export.passes.refine.state import RefineProgress, TrainingState
from prox24_export.stages.journal import WITHIN, Journal


def test_an_epoch_that_takes_long_is_saved_within_it_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    journal = Journal(Records(tmp_path / "out.journal"))
    assert journal.read_progress() is None
    state = TrainingState.start({"w": torch.zeros(4)}, 1e-3, 1e-2, 1000)
    progress, saved = RefineProgress(state=state), []
    for step in range(1, 26):
        now[0] += 10
        state.step, state.losses = step, [0.5] * step
        journal.save_progress(progress)
        read = Journal(journal.records).read_progress()
        saved.append(None if read is None or read.state is None else read.state.step)
    assert WITHIN == 60
    assert saved == [None] * 5 + [6] * 6 + [12] * 6 + [18] * 6 + [24] * 2
    state.losses = []  # the epoch ends: it is saved, though no minute has passed
    journal.save_progress(progress)
    read = Journal(journal.records).read_progress()
    assert read is not None
    assert read.state is not None
    assert (read.state.step, read.state.is_between_epochs) == (25, True)
