"""Whether an engine computes what the same model computes in float32."""

from collections.abc import Mapping

import numpy as np

from prox24_export.passes.graph.arrays import Array

OutputArrays = Mapping[str, Array]
TOLERANCE: Mapping[str, float] = {  # of an output's root mean square
    "fp32": 1e-3,
    "fp16": 0.02,
    "bf16": 0.1,
    "int8": 0.1,  # of a reference that quantises, too: where sums round differently, integers differ by one
}
LARGEST = 5  # times that tolerance, of the output's largest magnitude: what a single entry may differ by


def describe_difference(found: OutputArrays, wanted: OutputArrays, tolerance: float) -> str:
    """Describes how outputs differ from a reference, in one sentence; empty where they agree.

    Args:
        found: The outputs by name; a NaN in them is a difference.
        wanted: The reference by name.
        tolerance: The largest difference of root mean squares, as a share of the reference's; see `TOLERANCE`.
    """
    for name, reference in wanted.items():
        if name not in found:
            return f"output {name} is missing"
        difference = _describe_output(np.asarray(found[name]), np.asarray(reference), tolerance)
        if difference:
            return f"output {name} {difference}"
    return ""


def _describe_output(found: Array, wanted: Array, tolerance: float) -> str:
    if found.shape != wanted.shape:
        return f"has shape {list(found.shape)}, expected {list(wanted.shape)}"
    return (_describe_integers if wanted.dtype.kind in "biu" else _describe_floats)(found, wanted, tolerance)


def _describe_integers(found: Array, wanted: Array, tolerance: float) -> str:
    """Describes how classes or tokens differ; rounding may change the few that are nearly tied."""
    share = float((found != wanted).mean()) if wanted.size else 0.0
    return f"differs in {100 * share:.2g} % of its entries" if share > tolerance else ""


def _describe_floats(found: Array, wanted: Array, tolerance: float) -> str:
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    nans = int(np.isnan(found).sum())
    if nans:
        return f"holds {nans} NaN"
    odd = ~np.isfinite(found) | ~np.isfinite(wanted)
    if not np.array_equal(found[odd], wanted[odd]):
        return f"holds {int(odd.sum())} entries that are not finite in both"
    apart, size = np.abs(found[~odd] - wanted[~odd]), np.abs(wanted[~odd])
    if not apart.size:
        return ""
    middle, most = (
        _compute_share(_compute_rms(apart), _compute_rms(size)),
        _compute_share(float(apart.max()), float(size.max())),
    )
    if middle > tolerance:
        return f"differs by {100 * middle:.2g} % of its root mean square, more than {100 * tolerance:g} %"
    if most > LARGEST * tolerance:
        return (
            f"has an entry that differs by {100 * most:.2g} % of its largest, more than {100 * LARGEST * tolerance:g} %"
        )
    return ""


def _compute_rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _compute_share(part: float, whole: float) -> float:
    """Computes a share; where the whole is zero, it is the part itself."""
    return part / whole if whole else part
