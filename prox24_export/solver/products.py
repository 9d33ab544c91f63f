"""Matrix products of the solver, in the precision that its user chose."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Products = Literal["auto", "float32", "tf32"]
"""Precision of products of float32 matrices.

`tf32` rounds the operands to 10 bits of mantissa and adds in float32: a mode of CUDA devices since Ampere, computed the
same way elsewhere for comparison. `auto` is `tf32` on CUDA and `float32` elsewhere. Refinement of the surviving weights
is always in float32.
"""
TF32_DROPS = 13  # of float32's 23 bits of mantissa
TRIANGLE_BLOCKS = 4  # a symmetric product needs 10 of 16 blocks


def multiply(
    left: Float[Tensor, "N K"], right: Float[Tensor, "K M"], products: Products, out: Tensor | None = None
) -> Float[Tensor, "N M"]:
    """`left @ right`."""
    if left.device.type == "cuda":
        with _cuda_precision("ieee" if products == "float32" else "tf32"):
            return torch.mm(left, right, out=out)
    if products == "tf32":
        left, right = tf32(left), tf32(right)
    return torch.mm(left, right, out=out)


def times_its_transpose(half: Float[Tensor, "K K"], products: Products) -> Float[Tensor, "K K"]:
    """`half @ half.T`, of which only the blocks on and below the diagonal are computed."""
    size = half.shape[0]
    result = torch.empty_like(half)
    edges = [size * block // TRIANGLE_BLOCKS for block in range(TRIANGLE_BLOCKS + 1)]
    for start, stop in pairwise(edges):
        result[start:, start:stop] = multiply(half[start:], half[start:stop].T, products)
        result[start:stop, stop:] = result[stop:, start:stop].T
    return result


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
