"""The shortest ways to declare inputs, read samples for them, and expect a refusal."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from prox24_export.data import samples as data
from prox24_export.data.sample_list import Sample, SampleList
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Input

Shape = tuple[int | str | None, ...] | None
X = (Input("x", np.dtype(np.float32), ("N", 3)),)
PAIR = (Input("a", np.dtype(np.float32), ("N", 3)), Input("b", np.dtype(np.int64), ("N",)))


def one(shape: Shape, dtype: Any = np.float32) -> tuple[Input]:
    return (Input("x", np.dtype(dtype), shape),)


def read(source: Any, inputs: tuple[Input, ...] = X) -> SampleList:
    return data.read_samples(source, inputs, "--calibration")


def shapes(found: Sequence[Sample], name: str = "x") -> list[tuple[int, ...]]:
    return [sample.feeds[name].shape for sample in found]


def refused(said: str) -> Any:
    return pytest.raises(InputError, match=re.escape(said))
