"""The threads of compiled kernels and of torch, which are the same ones and as many."""

from functools import cache

import numba
import torch

from prox24_export.solver.compile_cache import CONFIG


@cache
def start_threads() -> None:
    """Starts the threads of compiled kernels: as many as torch has, which keeps its number.

    Left alone, numba starts them with its first kernel. Its OpenMP layer then sets the number of threads of the whole
    process, torch's too, to the number of cores, whatever `OMP_NUM_THREADS` says. From that kernel on, torch takes its
    sums in another order, so that what a run computes would depend on what it has computed before.

    It is called before a kernel runs, and not when a module is imported: a process with such threads cannot fork.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, CONFIG.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)
