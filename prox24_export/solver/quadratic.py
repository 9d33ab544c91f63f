"""The layer-wise objective: damped Gram matrix, target, and coordinates in which it is well scaled."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined] # documented, but missing from the stubs

TOKENS_FOR_FIRM_DAMPING = 0.11  # damping × tokens per dimension: .01 at 11 and .0275 at 4, near what is best there
LEAST_DAMPING, MOST_DAMPING = 0.01, 0.1
ENTRIES_AT_ONCE = 1 << 22  # of float64 temporaries


def automatic_damping(tokens: int | None, dimension: int) -> float:
    """Damping from tokens per input dimension, as a share of the mean diagonal of the Gram matrix.

    Few tokens say little about directions of small variance, so the fewer they are the more damping they need.
    """
    if not tokens:
        return 0.01
    return min(MOST_DAMPING, max(LEAST_DAMPING, TOKENS_FOR_FIRM_DAMPING * dimension / tokens))


@dataclass(frozen=True)
class Quadratic:
    """`tr((V−T) G (V−T)ᵀ)` with `G = XₛᵀXₛ/m + δI`, where `m` is the mean diagonal of `XₛᵀXₛ`.

    Beside the moments only the factor is held in float64; other large matrices are made when they are needed.

    Attributes:
        moment: `XₛᵀXₛ`, float64.
        cross: `X_dᵀXₛ`; None where both streams are the same.
        damping: `δ`; 1 where the Gram matrix is zero.
        mean: `m`; 1 where the Gram matrix is zero, which `G` then replaces by the identity.
        degenerate: Whether the Gram matrix is zero.
        factor: Lower Cholesky factor of `G`, float64.
        resolvents: What `resolvent` made last, by dtype, and its penalty.
    """

    moment: Float[Tensor, "K K"]
    cross: Float[Tensor, "K K"] | None
    damping: float
    mean: float
    degenerate: bool
    factor: Float[Tensor, "K K"]
    resolvents: dict[torch.dtype, tuple[float, Float[Tensor, "K K"]]] = field(default_factory=dict)

    @classmethod
    def of(cls, gram: Float[Tensor, "K K"], cross: Float[Tensor, "K K"] | None, damping: float) -> "Quadratic":
        """Makes the objective from undamped moments of any common scale; `damping` is `δ`.

        Raises:
            torch.linalg.LinAlgError: The damped matrix is not positive definite.
        """
        gram = gram.double()
        mean = float(gram.diagonal().mean())
        degenerate = mean <= 0
        mean, damping = (1.0, 1.0) if degenerate else (mean, damping)
        factor = _factor(_make_damped(gram, mean, damping, triangle=True))
        return cls(gram, None if cross is gram else cross, damping, mean, degenerate, factor)

    @property
    def gram(self) -> Float[Tensor, "K K"]:
        """`G`, float64; made anew each time."""
        return self.make_gram(torch.float64)

    def make_gram(self, dtype: torch.dtype) -> Float[Tensor, "K K"]:
        """`G`; made anew each time."""
        return _make_damped(self.moment, self.mean, self.damping, dtype=dtype)

    @cached_property
    def scale(self) -> Float[Tensor, " K"]:
        """Square root of the diagonal of `G`: `V·scale` are the coordinates with unit diagonal."""
        return (self.moment.diagonal() / self.mean + self.damping).sqrt()

    @cached_property
    def scaled_gram(self) -> Float[Tensor, "K K"]:
        """`G` with unit diagonal, float32."""
        return self.make_scaled_gram()

    @cached_property
    def scaled_gram_float64(self) -> Float[Tensor, "K K"]:
        """`G` with unit diagonal, float64; it is kept, so only small layers should ask for it."""
        return self.make_scaled_gram(torch.float64)

    def inverse(self, ridge: float, dtype: torch.dtype = torch.float32) -> Float[Tensor, "K K"]:
        """`(H + ridge·I)⁻¹` of `H = scaled_gram`, made in the memory of one matrix.

        Raises:
            torch.linalg.LinAlgError: The ridge is lost in rounding.
        """
        matrix = _make_damped(self.moment, self.mean, self.damping, self.scale, dtype, triangle=True)
        matrix.diagonal().add_(ridge)
        factor = _factor(matrix)
        return torch.cholesky_inverse(factor, out=factor)

    def resolvent(self, penalty: float, dtype: torch.dtype) -> Float[Tensor, "K K"]:
        """`ρ(H+ρI)⁻¹` of `H = scaled_gram` with the penalty `ρ`; for bfloat16 it is made in float32 and rounded.

        The last one of each dtype is kept until `forget_resolvents`: rows that are solved side by side ask for the same
        one in turn.

        Raises:
            torch.linalg.LinAlgError: The penalty is lost in rounding.
        """
        known = self.resolvents.get(dtype)
        if known is None or known[0] != penalty:
            del known
            self.resolvents.pop(dtype, None)  # two at a time would be the peak of a run's memory
            exact = torch.float32 if dtype == torch.bfloat16 else dtype
            self.resolvents[dtype] = penalty, self.inverse(penalty, exact).mul_(penalty).to(dtype)
        return self.resolvents[dtype][1]

    def forget_resolvents(self) -> None:
        """Gives their memory back."""
        self.resolvents.clear()

    def make_scaled_gram(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "K K"]:
        """`G` with unit diagonal; made anew each time."""
        return _make_damped(self.moment, self.mean, self.damping, self.scale, dtype)

    @cached_property
    def largest(self) -> float:
        """Largest eigenvalue of `scaled_gram`."""
        return float(torch.linalg.eigvalsh(self.scaled_gram.double())[-1])

    def correction(
        self, weight: Float[Tensor, "N K"], residual: Float[Tensor, "N K"] | None
    ) -> Float[Tensor, "N K"] | None:
        """What takes `W` to the least-squares weight for the dense network's output, float64: `(W·(C−G) + R)·G⁻¹`.

        Damping shrinks it towards zero. None where both streams are the same.

        Args:
            weight: `W`.
            residual: `R = (r_d − rₛ)ᵀXₛ` of a branch added to the layer's product, on the scale of the moments.
        """
        if self.cross is None and residual is None:
            return None
        right = torch.zeros_like(weight, dtype=torch.float64)
        if self.cross is not None:
            wide, columns = weight.double(), max(1, ENTRIES_AT_ONCE // max(1, len(self.moment)))
            for first in range(0, len(self.moment), columns):
                part = slice(first, first + columns)
                right[:, part] = wide @ (self.cross[:, part].double() - self.moment[:, part])
        if residual is not None:
            right += residual
        right /= self.mean
        # Two triangular solves in the memory of the right side; torch.cholesky_solve would copy factor and right side.
        half = torch.linalg.solve_triangular(self.factor.mT, right, upper=True, left=False, out=right)
        result: Tensor = torch.linalg.solve_triangular(self.factor, half, upper=False, left=False, out=half)
        return result


def _make_damped(
    moment: Float[Tensor, "K K"],
    mean: float,
    damping: float,
    scale: Float[Tensor, " K"] | None = None,
    dtype: torch.dtype = torch.float64,
    *,
    triangle: bool = False,
) -> Float[Tensor, "K K"]:
    """`G`, with unit diagonal where its square root is given as `scale`; few rows in float64 at a time.

    With `triangle` only what is on the diagonal and right of it is set, which is all that a factorisation reads, and
    taken from the same side of `moment`; otherwise both sides are averaged.
    """
    result = torch.empty_like(moment, dtype=dtype)
    rows = max(1, ENTRIES_AT_ONCE // max(1, len(moment)))
    for first in range(0, len(moment), rows):
        part, right = slice(first, first + rows), slice(first if triangle else 0, None)
        piece = moment[part, right].clone() if triangle else (moment[part] + moment[:, part].T).div_(2)
        if scale is None:
            piece.div_(mean)
        else:
            piece.mul_(1 / (mean * scale[part, None])).mul_(1 / scale[right])
        ridge = damping if scale is None else damping / scale[part].square()
        piece.diagonal(0 if triangle else first).add_(ridge)
        result[part, right] = piece
    return result


def _factor(matrix: Float[Tensor, "K K"]) -> Float[Tensor, "K K"]:
    """Lower Cholesky factor in the memory of `matrix`, which is symmetric: LAPACK's order is as good as its own.

    Raises:
        torch.linalg.LinAlgError: It is not positive definite.
    """
    by_columns = matrix.mT
    status = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(by_columns, out=(by_columns, status))
    if int(status):
        raise LinAlgError(f"the leading minor of order {int(status)} is not positive definite")
    return by_columns


def loss(
    solution: Float[Tensor, "N K"], target: Float[Tensor, "N K"], gram: Float[Tensor, "K K"]
) -> Float[Tensor, " N"]:
    """`(v−t) gram (v−t)ᵀ` for every row, in float64; few rows at a time."""
    gram = gram.double()
    rows = max(1, ENTRIES_AT_ONCE // solution.shape[1])
    losses = []
    for first in range(0, len(solution), rows):
        part = slice(first, first + rows)
        difference = solution[part].double() - target[part].double()
        losses.append(((difference @ gram) * difference).sum(1))
    return torch.cat(losses)


def energy(weight: Float[Tensor, "N K"], gram: Float[Tensor, "K K"]) -> Float[Tensor, ""]:
    """`tr(W gram Wᵀ)`, float64, on the device of both.

    The product is taken in the dtype of `weight`, which is enough for a sum without cancellation.
    """
    columns = max(1, ENTRIES_AT_ONCE // max(1, len(gram)))
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for first in range(0, len(gram), columns):
        part = slice(first, first + columns)
        product = weight @ gram[:, part].to(weight.dtype)
        total += product.mul_(weight[:, part]).sum(dtype=torch.float64)
    return total
