"""The Triton kernels in Triton's interpreter on CPU, compiled for a GPU that need not be there, and on one if it is."""

import importlib.util
import itertools
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from prox24_export.solver import prox
from prox24_export.solver.pattern import two_four_mask

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed here", allow_module_level=True)
INTERPRET = """
import sys
import torch
from prox24_export.solver import kernels_cuda as kernels

calls = torch.load(sys.argv[1])
for call in calls:
    call["result"] = getattr(kernels, call["name"])(*call["tensors"], *call["numbers"])
torch.save(calls, sys.argv[2])
"""
STRENGTHS = [0.0, 1e-3, 0.1, 0.3, 1.0, 10.0, 1e3]
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from prox24_export.solver import kernels_cuda as kernels

four = ["product", "gap", "sparse", "target"]
for kernel, tensors in ((kernels._prox_kernel, ["z", "out"]), (kernels._splitting_kernel, four),
                        (kernels._gradient_kernel, four)):
    for kind, name in ((kernels.tl.float64, "fp64"), (kernels.tl.float32, "fp32")):
        constants = {**kernels.LIMITS[kind], "kind": kind, "tile": kernels.TILE}
        signature = {tensor: "*" + name for tensor in tensors}
        signature |= {"counts": "*i32"} if len(tensors) == 4 else {}
        signature |= {"numbers": "*fp64", "groups": "i32"} | dict.fromkeys(constants, "constexpr")
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        newest = [120] if kernel is kernels._splitting_kernel and name == "fp32" else []  # the one that takes the time
        for capability in (80, 90, 120):
            compiled = triton.compile(
                source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True}
            )
            assert len(compiled.asm["cubin"]) > 10_000, (name, capability)
print("compiled")
"""


def groups(dtype: torch.dtype, count: int = 700) -> Tensor:
    """Normal ones, and zeros, ties, tiny and lopsided groups among them."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    z[:20] = 0
    z[20:60] = (2 * z[20:60]).round() / 2
    z[60:100] *= 1e-4
    z[100:120, 2:] = 0
    z[120:160, 1:] *= 1e-5
    return z.to(dtype)


def four_tensors(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    product, gap, target = (torch.randn(700, 4, generator=generator).to(dtype) for _ in range(3))
    sparse = groups(dtype)
    return [product, gap, sparse * two_four_mask(sparse), target]


def run(code: str, *arguments: str, **environment: str) -> str:
    """Its own process: Triton decides when it is imported whether it interprets."""
    names = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, env=names | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Calls of the kernels, with what Triton's interpreter made of them."""
    calls = []
    for dtype, strength in itertools.product((torch.float64, torch.float32), STRENGTHS):
        z = groups(dtype)
        calls.append({"name": "prox", "tensors": [z, torch.full_like(z, torch.nan)], "numbers": [strength]})
        calls.append({"name": "splitting_step", "tensors": four_tensors(dtype), "numbers": [strength, 0.8]})
        calls.append({"name": "gradient_step", "tensors": four_tensors(dtype), "numbers": [strength, 0.3, 0.9]})
    folder = tmp_path_factory.mktemp("interpreted")
    torch.save(calls, folder / "calls.pt")
    run(INTERPRET, str(folder / "calls.pt"), str(folder / "results.pt"), TRITON_INTERPRET="1")
    results: list[dict[str, Any]] = torch.load(folder / "results.pt")
    return results


def test_prox_is_that_of_the_cpu_kernel(interpreted: list[dict[str, Any]]) -> None:
    for call in (call for call in interpreted if call["name"] == "prox"):
        z, out = call["tensors"]
        expected = prox.prox24(z, *call["numbers"])
        tolerance = 1e-13 if z.dtype == torch.float64 else 1e-7
        assert ((out - expected).abs() <= tolerance * z.abs().amax(1, keepdim=True)).all()
        assert torch.equal(out != 0, expected != 0)
        assert not bool(out[out == 0].signbit().any())


def test_steps_are_those_of_the_cpu_kernel(interpreted: list[dict[str, Any]]) -> None:
    for call in (call for call in interpreted if call["name"] != "prox"):
        exact = call["tensors"][0].dtype == torch.float64
        expected = four_tensors(call["tensors"][0].dtype)
        counts = getattr(prox, call["name"])(*expected, *call["numbers"])
        # Computed in float32, a group on the edge between two supports may fall on either side.
        slack = 0 if exact else 5
        assert max(abs(a - b) for a, b in zip(call["result"], counts, strict=True)) <= slack
        tolerance = 1e-12 if exact else 3e-5
        for one, other in zip(call["tensors"], expected, strict=True):
            assert int(((one - other).abs() > tolerance * (1 + other.abs())).any(1).sum()) <= slack


def test_kernels_compile_for_gpus_since_ampere() -> None:
    assert run(COMPILE).strip() == "compiled"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_gpu_agrees_with_the_reference(strength: float) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        z = groups(torch.float64).to(dtype)
        here = prox.prox24(z.cuda(), strength)
        torch.testing.assert_close(here.cpu(), prox.prox24(z, strength), rtol=1e-6, atol=1e-12)
    theirs = four_tensors(torch.float64)
    ours = [tensor.cuda() for tensor in theirs]
    (p, g, z, t), (p_, g_, z_, t_) = ours, theirs
    assert prox.splitting_step(p, g, z, t, strength, 0.8) == prox.splitting_step(p_, g_, z_, t_, strength, 0.8)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-10, atol=1e-12)
