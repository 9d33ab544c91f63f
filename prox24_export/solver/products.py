"""Matrix products of the mask solvers, in the precision that the user chose."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Products = Literal["auto", "float32", "bf16x3", "tf32", "bf16"]
"""How float32 matrices are multiplied.

`bf16` rounds both operands and the product to bfloat16, 8 bits of mantissa, and adds in float32. `bf16x3` splits each
operand into two bfloat16 parts, 16 bits of mantissa together, and adds three of the four products in float32; `tf32`
rounds the operands to 10 bits. These two run on the tensor cores of CUDA devices since Ampere; elsewhere they are
computed with the same roundings, for comparison.

A mask solver forgives much: its iterates move on, and no error adds up. `auto` is `bf16` on CPUs that multiply bfloat16
in twice the time or less of what float32 takes (AVX-512 with BF16, AMX), `bf16x3` on CUDA devices since Ampere, and
float32 elsewhere. Small layers are iterated in float64 whatever it says.

Measured on CPU, P(768), against float32: `bf16x3` changes 0.03 % of the mask's entries, about as many as another number
of threads does (0.01 to 0.04 %), and the held-out error by 0.006 %; `tf32` 1.2 % and 0.09 %.
"""
TF32_DROPS = 13  # of float32's 23 bits of mantissa


def multiply(
    left: Float[Tensor, "N K"], right: Float[Tensor, "K M"], products: Products, out: Tensor | None = None
) -> Float[Tensor, "N M"]:
    """`left @ right`; the product of float64 matrices as it is. For `bf16`, `right` may be bfloat16 already."""
    if left.dtype == torch.float64:
        return torch.mm(left, right, out=out)
    on_cuda = left.device.type == "cuda"
    products = choose_products(products, left.device)
    if products == "bf16":
        product = torch.mm(left.bfloat16(), right.bfloat16())
        return product.float() if out is None else out.copy_(product)
    if products == "bf16x3":
        # (high + low)(high + low) without low·low, as one product over three times the inner dimension
        (high, low), (right_high, right_low) = split(left), split(right)
        left = torch.cat([high, high, low], dim=1)
        right = torch.cat([right_high, right_low, right_high])
        if on_cuda:
            return torch.mm(left, right, out_dtype=torch.float32, out=out)
        return torch.mm(left.float(), right.float(), out=out)
    if on_cuda:
        with _cuda_precision("tf32" if products == "tf32" else "ieee"):
            return torch.mm(left, right, out=out)
    if products == "tf32":
        left, right = tf32(left), tf32(right)
    return torch.mm(left, right, out=out)


def choose_products(products: Products, device: torch.device) -> Products:
    """What `auto` means on a device; anything else is what it is."""
    if products != "auto":
        return products
    if device.type == "cuda":
        return "bf16x3" if _has_bfloat16(device) else "float32"
    return "bf16" if device.type == "cpu" and _multiplies_bfloat16() else "float32"


def _multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, as far as this version of torch can tell."""
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _has_bfloat16(device: torch.device) -> bool:
    """Whether its matrix units take bfloat16: NVIDIA GPUs since Ampere."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def split(matrix: Float[Tensor, "..."]) -> tuple[Tensor, Tensor]:
    """Two bfloat16 tensors whose sum is `matrix`, float32 and finite, to 16 bits of mantissa."""
    high = matrix.bfloat16()
    return high, (matrix - high.float()).bfloat16()


def tf32(matrix: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`matrix`, float32 and finite, rounded to the nearest TF32 value, ties away from zero, as tensor cores take it."""
    bits = matrix.contiguous().view(torch.int32)
    return ((bits + (1 << (TF32_DROPS - 1))) & -(1 << TF32_DROPS)).view(torch.float32)


@contextmanager
def _cuda_precision(precision: str) -> Iterator[None]:
    flags = torch.backends.cuda.matmul
    before = flags.fp32_precision
    flags.fp32_precision = precision
    try:
        yield
    finally:
        flags.fp32_precision = before
