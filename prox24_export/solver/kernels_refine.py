"""A compiled CPU kernel of the refinement: a step of conjugate gradients for every row, while the row is in the cache.

As tensor operations the same step is ten passes over memory, which take as long as its product.
"""

from typing import TYPE_CHECKING, Any, no_type_check

import numba

from prox24_export.solver.compile_cache import cache_compiled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.floating[Any]]
    Numbers = NDArray[np.float64]
    Kept = NDArray[np.bool_]

# Sums may be taken in any order, which lets the compiler take several entries at once; the order is then fixed.
_parallel = cache_compiled(
    numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True, fastmath={"reassoc", "contract"})
)


@_parallel
@no_type_check
def conjugate_step(  # noqa: PLR0917 - compiled functions take no names
    product: "Rows",
    direction: "Rows",
    here: "Rows",
    residual: "Rows",
    mask: "Kept",
    inverse: "Rows",
    energy: "Numbers",
    gain: "Numbers",
) -> None:
    """Takes a step of every row [rows, K] in place; see `ConjugateGradient`.

    `product` is `direction·G`; `energy` is `residual·inverse·residual` of each row, and `gain` is set to what the step
    lowers the row's loss by.
    """
    columns = product.shape[1]
    for row in numba.prange(product.shape[0]):
        curvature = 0.0
        for j in range(columns):
            curvature += direction[row, j] * product[row, j]
        step = energy[row] / curvature if curvature > 0 else 0.0
        gain[row] = step * energy[row]
        following = 0.0
        for j in range(columns):
            here[row, j] += step * direction[row, j]
            left = residual[row, j] - step * product[row, j] if mask[row, j] else 0.0
            residual[row, j] = left
            following += left * left * inverse[j]
        turn = following / energy[row] if energy[row] > 0 else 0.0
        for j in range(columns):
            direction[row, j] = residual[row, j] * inverse[j] + turn * direction[row, j]
        energy[row] = following
