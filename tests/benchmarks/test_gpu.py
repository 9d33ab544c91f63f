"""The GPU benchmark where there is no GPU: one sentence, exit code 2, both ways to start it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which it would run")
@pytest.mark.parametrize("how", [["-m", "benchmarks.gpu"], ["benchmarks/gpu.py"]])
def test_without_a_gpu_it_says_so_and_exits_with_2(how: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *how, "--quick"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "no CUDA GPU here: nothing measured\n"
    assert done.stdout == ""
