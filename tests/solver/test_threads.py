"""The threads of compiled kernels leave those of torch alone."""

import os
import subprocess
import sys

import pytest

PROBE = """\
import torch
before = torch.get_num_threads()
from prox24_export.solver.prox import prox24
prox24(torch.ones(64, 64), 0.1)
import numba
print(before, torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_does_not_change_how_many_threads_torch_has(threads: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [str(threads)] * 3
