"""Samples as a run takes them: how many are run at once, and what is said where none can be."""

import re
from pathlib import Path

import numpy as np
import pytest

from prox24_export import export
from prox24_export.data.sample_list import Sample
from prox24_export.data.samples import Parts
from prox24_export.errors import InputError
from prox24_export.settings import Settings
from prox24_export.stages import samples as prep
from tests.graphs import model, normal, opened, save


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
        InputError,
        match=r"cannot be run on the largest sample, x: \[1, 5\]: .*\. It was drawn at random: give --calibration",
    ):
        prep.find_batch_size(opened(proto, tmp_path), parts, is_random=True)
    with pytest.raises(InputError, match=r"cannot be run on the largest sample, x: \[1, 5\]: .* dimension mismatch\.$"):
        prep.find_batch_size(opened(proto, tmp_path), parts)


# A mask over past and present, whose names do not say that they add up
MASKED = """g (float[B,T,16] x, float[B,P,16] past, float[B,M] mask) => (float[B,M,8] y) {
    all = Concat<axis=1>(past, x) last = Unsqueeze(mask, minus) kept = Mul(all, last) y = MatMul(kept, w) }"""


def test_shapes_that_do_not_fit_together_are_named_with_the_way_out(tmp_path: Path) -> None:
    path = save(model(MASKED, {"w": normal(16, 8), "minus": np.array([-1])}), tmp_path)
    told = "cannot be run on the largest sample, x: [1, 32, 16], past: [1, 32, 16], mask: [1, 32]: "
    with pytest.raises(InputError, match=re.escape(told) + r".* --shapes name:1x3x224x224\.$"):
        export(path, None, tmp_path / "out")
    report = export(path, None, tmp_path / "out", settings=Settings(shapes={"mask": (1, 64)}, method="magnitude"))
    assert report.layers[0].state == "sparse"


def test_names_that_say_how_sizes_depend_on_each_other_need_no_shapes(tmp_path: Path) -> None:
    proto = model(MASKED, {"w": normal(16, 8), "minus": np.array([-1])})
    proto.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "P + T"
    report = export(save(proto, tmp_path), None, tmp_path / "out", settings=Settings(method="magnitude"))
    assert report.layers[0].state == "sparse"


def test_a_message_names_the_shapes_of_a_few_inputs() -> None:
    told = prep.describe_shapes({f"x{index}": normal(1, index) for index in range(1, 11)})
    assert told.startswith("x1: [1, 1], ")
    assert told.endswith("x8: [1, 8], and 2 more")
