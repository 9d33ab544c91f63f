"""Outputs that are compared: as many as memory allows."""

from pathlib import Path

import pytest

from prox24_export.passes.quantise import outputs
from tests.graphs import opened
from tests.passes.quantise.quantised import FEEDS, layers, quantise


@pytest.mark.parametrize(("most", "batches"), [(10**9, 4), (32 * 8 * 4 + 1, 2), (1, 1)])
def test_no_more_outputs_are_held_than_the_limit_says(
    tmp_path: Path, most: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MOST_BYTES", most)
    found = outputs.run_float(opened(layers(), tmp_path), FEEDS)
    assert [list(batch) for batch in found] == [["y"]] * batches
    done, _ = quantise(layers(), tmp_path / "int8", FEEDS[:1], held_back=FEEDS)
    assert 0 < done.differences["y"] < 0.05


def test_the_same_outputs_do_not_differ(tmp_path: Path) -> None:
    found = outputs.run_float(opened(layers(), tmp_path), FEEDS)
    assert outputs.compare_outputs(found, found) == {"y": 0.0}
    twice = [{name: 2 * array for name, array in batch.items()} for batch in found]
    assert outputs.compare_outputs(found, twice)["y"] == pytest.approx(1.0)
