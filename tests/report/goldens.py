"""Text that a writer must give for one fixed run, kept in files to look at.

`PROX24_UPDATE_GOLDEN=1 pytest tests/report` writes them anew. A test that did so fails all the same, so that no run
with the switch can pass.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"
SWITCH = "PROX24_UPDATE_GOLDEN"


def check(name: str, text: str, folder: Path = FOLDER, environment: Mapping[str, str] = os.environ) -> None:
    """Compares `text` with the golden file `name`."""
    path = folder / name
    if environment.get(SWITCH):
        if environment.get("CI"):
            pytest.fail(f"{SWITCH} must not be set in CI: golden files are written on purpose and looked at")
        path.write_bytes(text.encode())
        pytest.fail(f"{path} was written anew: look at the difference, then run without {SWITCH}")
    assert text == path.read_bytes().decode()
