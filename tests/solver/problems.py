"""Small layer problems with correlated inputs."""

import itertools

import torch
from torch import Tensor


def correlated(tokens: int, k: int, seed: int = 0) -> Tensor:
    """Activations [tokens, K], float64, with a power-law spectrum and uneven channel scales."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))
    spectrum = torch.arange(1, k + 1, dtype=torch.float64) ** -0.5
    scales = torch.exp(0.5 * torch.randn(k, generator=generator, dtype=torch.float64))
    noise = torch.randn(tokens, k, generator=generator, dtype=torch.float64)
    activations: Tensor = noise * spectrum @ basis.T * scales
    return activations


def weights(n: int, k: int, seed: int = 0) -> Tensor:
    """Gaussian weights [N, K], float32."""
    drawn: Tensor = torch.randn(n, k, generator=torch.Generator().manual_seed(1000 + seed)) / k**0.5
    return drawn


def two_four_masks(k: int) -> list[Tensor]:
    """Every 2:4 mask of one row of length `k`."""
    pairs = list(itertools.combinations(range(4), 2))
    masks = []
    for choice in itertools.product(pairs, repeat=k // 4):
        mask = torch.zeros(k, dtype=torch.bool)
        for group, (first, second) in enumerate(choice):
            mask[4 * group + first] = mask[4 * group + second] = True
        masks.append(mask)
    return masks


def best_on_mask(target: Tensor, mask: Tensor, gram: Tensor) -> Tensor:
    """The minimiser of one row's quadratic on a support, by a direct solve in float64."""
    best = torch.zeros_like(target, dtype=torch.float64)
    inside = gram[mask][:, mask].double()
    best[mask] = torch.linalg.solve(inside, (gram.double() @ target.double())[mask])
    return best


def row_losses(solution: Tensor, target: Tensor, gram: Tensor) -> Tensor:
    """`(v−t) G (v−t)ᵀ` of every row, float64."""
    difference = solution.double() - target.double()
    return ((difference @ gram.double()) * difference).sum(1)
