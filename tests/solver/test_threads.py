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


FORKED = """\
import os
import torch
from prox24_export.solver import exchange, kernels_cpu, rounding
from prox24_export.solver.prox import prox24
if (child := os.fork()) == 0:
    prox24(torch.ones(64, 64), 0.1)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_has_imported_the_kernels_can_fork() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_does_not_change_how_many_threads_torch_has(threads: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [str(threads)] * 3
