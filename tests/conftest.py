"""Fixtures that tests of several rooms share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# As the command does, and for its reason: two workers of pytest-xdist share the cores. Before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # there is a worker for each core; more threads only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("prox24", deadline=None)  # no test is timed: machines are shared
settings.load_profile("prox24")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and small runs would wait for the disk longer than they compute."""
    monkeypatch.setattr(os, "fsync", os.fstat)  # which refuses a closed file as well


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models and data, which stand beside the project; `PROX24_TEST_DATA` says where."""
    folder = Path(os.environ.get("PROX24_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set PROX24_TEST_DATA to the folder that holds edge/, speech/, images/")
    return folder
