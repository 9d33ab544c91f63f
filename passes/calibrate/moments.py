"""What calibration sums up over tokens: Gram matrices, and how far a residual branch has moved."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

ENTRIES_AT_ONCE = 1 << 20  # of a sum in float64


@dataclass(eq=False)
class Moments:
    """Sums over the tokens of one part of the data, not divided by their number.

    The matrices are the largest things a run holds, so they are added to in place.

    Attributes:
        gram: `XₛᵀXₛ` of the pruned stream, float64.
        cross: `X_dᵀXₛ` of the dense and the pruned stream, float64; `gram` itself where both streams are the same.
        dense: Diagonal of `X_dᵀX_d`, float64.
        tokens: Number of rows of `X`.
    """

    gram: Float[Tensor, "K K"]
    cross: Float[Tensor, "K K"]
    dense: Float[Tensor, " K"]
    tokens: int

    @classmethod
    def zeros(cls, columns: int) -> "Moments":
        """Moments of an empty set of tokens, for inputs of so many columns."""
        gram = torch.zeros(columns, columns, dtype=torch.float64)
        return cls(gram, gram, torch.zeros(columns, dtype=torch.float64), 0)

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
    ) -> bool:
        """Adds rows of both streams, one product at a time; the same object twice where they do not differ.

        Returns:
            Whether the rows are finite. If not, the sums are spoilt.
        """
        differ = with_cross and x_dense is not x_pruned
        if differ and self.cross is self.gram:
            self.cross = self.gram.clone()
        product = _multiply(x_pruned, x_pruned)
        _accumulate(self.gram, product)
        if self.cross is not self.gram:
            if differ:
                del product
                product = _multiply(x_dense, x_pruned)
            _accumulate(self.cross, product)
        norms = x_dense.double().square().sum(0)
        self.dense += norms
        self.tokens += x_pruned.shape[0]
        return bool(torch.isfinite(norms).all() and torch.isfinite(x_pruned).all())


@dataclass(frozen=True)
class Observation:
    """What calibration learnt about a layer's input. Layers that read the same value share the moments.

    Attributes:
        fit: Moments of the data that masks and weights are fitted to.
        choice: Moments of the data that settings are chosen on; None where none is held back.
        residuals: By part: `(r_d − rₛ)ᵀXₛ` [N, K], float64, of the residual branch that is added to the layer's
            product: how far the branch has moved away from the dense network's, which this layer can make good.
            Empty where there is no such branch or it has not moved.
    """

    fit: Moments
    choice: Moments | None
    residuals: Mapping[str, Float[Tensor, "N K"]] = field(default_factory=dict)


def _accumulate(total: Float[Tensor, "K K"], product: Float[Tensor, "K K"]) -> None:
    """`total += product`, few rows at a time: torch first makes a float64 copy of what it adds."""
    rows = max(1, ENTRIES_AT_ONCE // max(1, product.shape[1]))
    for first in range(0, len(total), rows):
        total[first : first + rows] += product[first : first + rows]


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """`leftᵀ right` in the rows' own dtype; in float64 where finite rows leave that."""
    product = left.T @ right
    total = product.sum()  # NaN or Inf where any entry is, and sometimes where none is: then float64 costs time only
    return product if bool(torch.isfinite(total)) else left.double().T @ right.double()
