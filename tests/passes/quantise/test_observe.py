"""Histograms of a model's values are those of what ONNX Runtime computes."""

from pathlib import Path

import numpy as np
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.precision import ranges
from prox24_export.passes.quantise.observe import observe_magnitudes
from tests.graphs import normal, opened
from tests.passes.quantise.quantised import FEEDS, WEIGHTS, layers


@pytest.mark.parametrize("most", [ranges.BYTES_AT_ONCE, 1])
def test_every_batch_is_seen_once_however_the_model_is_parted(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "BYTES_AT_ONCE", most)
    seen = observe_magnitudes(opened(layers(), tmp_path), FEEDS, {"x", "d"}, {"x", "a"})
    x = np.concatenate([feed["x"] for feed in FEEDS])
    hidden = x @ WEIGHTS["w"]
    assert seen.histograms.keys() == {"x", "d"}
    assert seen.histograms["x"].size == x.size
    assert seen.histograms["d"].largest == pytest.approx((hidden + WEIGHTS["c"]).max(), rel=1e-5)
    np.testing.assert_array_equal(seen.channels["x"], np.abs(x).max(0))
    np.testing.assert_allclose(seen.channels["a"], np.abs(hidden).max(0), rtol=1e-4)


def test_what_is_not_asked_for_is_not_run(tmp_path: Path) -> None:
    seen = observe_magnitudes(opened(layers(), tmp_path), FEEDS, {"x"})
    assert seen.histograms["x"].size == 4 * 32 * 16


def test_a_batch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Expected calibration data that fit the model"):
        observe_magnitudes(opened(layers(), tmp_path), [{"x": normal(4, 15)}], {"d"})
