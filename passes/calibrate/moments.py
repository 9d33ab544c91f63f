"""The sums over tokens that calibration makes: Gram matrices, and how far a residual branch has moved."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ENTRIES_AT_ONCE = 1 << 20  # entries that are added up in float64 at a time: 8 MB
CPU = torch.device("cpu")
EXPONENT = 0x7F800000  # the bits of a float32 that hold its power of two


@dataclass(eq=False)
class Moments:
    """Sums over the tokens of one part of the data. They are not divided by the number of tokens.

    The matrices are the largest things a run holds, so they are added to in place.

    Attributes:
        gram: `XₛᵀXₛ` of the pruned stream, float64; empty, [0, 0], where only the norms are summed.
        cross: `X_dᵀXₛ` of the dense and the pruned stream, float64; `gram` itself where both streams are the same.
        dense: Diagonal of `X_dᵀX_d` of the dense stream, float64.
        tokens: Number of tokens, which are the rows of `X`.
    """

    gram: Float[Tensor, "K K"]
    cross: Float[Tensor, "K K"]
    dense: Float[Tensor, " K"]
    tokens: int

    @classmethod
    def zeros(cls, columns: int, *, with_gram: bool = True, device: torch.device = CPU) -> "Moments":
        """Moments of an empty set of tokens, for inputs with this number of columns.

        Args:
            columns: The number of columns.
            with_gram: Whether the Gram matrix is wanted. If not, only the norms are summed.
            device: Where the rows will be.
        """
        size = columns if with_gram else 0
        gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        return cls(gram, gram, torch.zeros(columns, dtype=torch.float64, device=device), 0)

    @property
    def has_gram(self) -> bool:
        """Whether the Gram matrix is summed, and not the norms alone."""
        return len(self.gram) == len(self.dense)

    def to(self, device: torch.device) -> "Moments":
        """These moments on a device; what is there already is shared."""
        gram = self.gram.to(device)
        cross = gram if self.cross is self.gram else self.cross.to(device)
        return Moments(gram, cross, self.dense.to(device), self.tokens)

    def add(self, other: "Moments") -> None:
        """Adds the moments of another set of tokens."""
        if self.cross is self.gram and other.cross is not other.gram:
            self.cross = self.gram.clone()
        if self.cross is not self.gram:
            self.cross += other.cross
        self.gram += other.gram
        self.dense += other.dense
        self.tokens += other.tokens

    def add_rows(
        self, x_dense: Float[Tensor, "tokens K"], x_pruned: Float[Tensor, "tokens K"], *, with_cross: bool
    ) -> Bool[Tensor, ""]:
        """Adds rows of both streams, with one product [K, K] in memory at a time.

        Args:
            x_dense: Rows of the dense stream.
            x_pruned: The same rows of the pruned stream; the same object where the streams do not differ.
            with_cross: Whether the cross product is wanted.

        Returns:
            Whether the rows are finite, on their device. If they are not, the sums hold NaN or Inf from now on.
        """
        differ = with_cross and x_dense is not x_pruned
        if differ and self.cross is self.gram:
            self.cross = self.gram.clone()
        if self.has_gram:
            product = multiply_rows(x_pruned, x_pruned)
            _accumulate(self.gram, product)
        if self.cross is not self.gram:
            if differ:
                del product
                product = multiply_rows(x_dense, x_pruned)
            _accumulate(self.cross, product)
        norms = x_dense.double().square().sum(0)
        self.dense += norms
        self.tokens += x_pruned.shape[0]
        return torch.isfinite(norms).all() & torch.isfinite(x_pruned).all()


@dataclass(frozen=True)
class Observation:
    """What calibration learnt about a layer's input. Layers that read the same value share one `Moments` object.

    Attributes:
        fit: Moments of the data that masks and weights are fitted to.
        choice: Moments of the data that settings are chosen on; None where none is held back.
        residuals: For each part, `(r_d − rₛ)ᵀXₛ` [N, K], float64. `r` is the residual branch that is added to the
            layer's product: the difference is how far pruning has moved that branch, and the layer can make up for it.
            Empty where there is no such branch or where it has not moved.
    """

    fit: Moments
    choice: Moments | None
    residuals: Mapping[str, Float[Tensor, "N K"]] = field(default_factory=dict)


def _scale_down(rows: Float[Tensor, "tokens K"]) -> tuple[Float[Tensor, "tokens K"], Float[Tensor, ""]]:
    """float32 rows over a power of two so that no magnitude is above 2, and that power, float64; both are exact."""
    largest = torch.linalg.vector_norm(rows, torch.inf).clamp_min(torch.finfo(torch.float32).tiny)
    power = (largest.view(torch.int32) & EXPONENT).view(torch.float32)  # no function of CUDA promises it as exactly
    return rows / power, power.double()


def _accumulate(total: Float[Tensor, "K K"], product: Float[Tensor, "K K"]) -> None:
    """Adds `product` to `total`, a few rows at a time where torch first makes a float64 copy of what it adds."""
    if product.dtype == total.dtype:
        total += product
        return
    rows = max(1, ENTRIES_AT_ONCE // max(1, product.shape[1]))
    for first in range(0, len(total), rows):
        total[first : first + rows] += product[first : first + rows]


def multiply_rows(left: Float[Tensor, "tokens N"], right: Float[Tensor, "tokens K"]) -> Float[Tensor, "N K"]:
    """Computes `leftᵀ right` in the rows' own dtype, or in float64 where that dtype overflows.

    On a GPU nobody waits to see whether it does: there the rows are first divided by powers of two near their largest
    entries, with which no product of theirs overflows, and the product is multiplied by these in float64.
    """
    if left.device.type != "cpu" and left.dtype != torch.float64:
        (low, by), (other, and_by) = _scale_down(left), _scale_down(right)
        return (low.T @ other).double().mul_(by * and_by)
    product = left.T @ right
    total = product.sum()  # not finite where an entry is not, and sometimes where all are: then float64 only costs time
    return product if bool(torch.isfinite(total)) else left.double().T @ right.double()
