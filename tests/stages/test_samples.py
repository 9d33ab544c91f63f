"""Samples as a run takes them: how many are run at once."""

from pathlib import Path

import numpy as np
import pytest

from prox24_export.data.samples import Parts, Sample
from prox24_export.errors import InputError
from prox24_export.stages import samples as prep
from tests.graphs import model, normal, opened


def test_the_batch_is_probed_on_the_largest_group_of_any_part(tmp_path: Path) -> None:
    # declares a dynamic batch, but squeezes it away
    graph = "g (float[N,T,16] x) => (float[T,8] y) { one = Squeeze(x, first) y = MatMul(one, w) }"
    proto = model(graph, {"w": normal(16, 8), "first": np.array([0])})
    samples = [Sample({"x": normal(1, length, 16)}) for length in (3, 5, 5, 5)]
    assert prep.find_batch_size(opened(proto, tmp_path), Parts(samples, (), ())) == 1


def test_a_model_that_cannot_be_run_on_random_samples_asks_for_real_ones(tmp_path: Path) -> None:
    proto = model("g (float[N,T] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": normal(16, 8)})
    parts = Parts([Sample({"x": normal(1, 5)})], (), ())
    with pytest.raises(
        InputError, match=r"cannot be run on the largest sample: .*\. Give --calibration: this sample was"
    ):
        prep.find_batch_size(opened(proto, tmp_path), parts, is_random=True)
    with pytest.raises(InputError, match=r"cannot be run on the largest sample: .* dimension mismatch\.$"):
        prep.find_batch_size(opened(proto, tmp_path), parts)
