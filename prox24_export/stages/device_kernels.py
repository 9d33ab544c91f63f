"""Whether torch can compute on a GPU that it sees: builds of torch have no kernels for GPUs that are too old or new."""

import torch

from prox24_export.errors import UnavailableError, first_line
from prox24_export.solver.prox import find_kernel_fault

SIDE = 16  # rows and columns of the product that is tried


def find_usable_device(asked: str, warnings: list[str]) -> str:
    """Finds the device that can be used in place of the one that was asked for.

    Args:
        asked: The value of `--device`.
        warnings: Takes a sentence where the CPU is used in place of a GPU, or torch's kernels in place of the solver's.

    Returns:
        `cpu` where `auto` was asked for and torch cannot compute on the first GPU; else what was asked for, which may
        not be there.

    Raises:
        UnavailableError: A GPU was asked for on which torch cannot compute.
    """
    number = asked.partition(":")[2]
    place = int(number) if number.isdecimal() else 0
    if asked == "cpu" or not torch.cuda.is_available() or place >= torch.cuda.device_count():
        return asked
    device = torch.device("cuda", place)
    fault = find_fault(device)
    if fault is None:
        if (without := find_kernel_fault(device)) is not None:
            warnings.append(f"The mask solver takes torch's own kernels on {device}, which are slower: {without}.")
        return asked
    why = f"torch {torch.__version__} cannot compute on {device}, {torch.cuda.get_device_name(device)}: {fault}"
    if asked != "auto":
        raise UnavailableError(f"--device {asked}: {why}. Install a build of torch for this GPU, or use --device cpu.")
    warnings.append(f"{why}. The CPU is used (--device auto).")
    return "cpu"


def find_fault(device: torch.device) -> str | None:
    """Finds out why torch cannot compute on a device, by a small product, in a few words; None where it can."""
    try:
        ones = torch.ones(SIDE, SIDE, device=device)
        found = float((ones @ ones).sum())
    except RuntimeError as error:  # which torch makes of what its libraries tell
        return first_line(error).rstrip(".")
    return None if found == SIDE**3 else f"a product of ones is {found:g} and not {SIDE**3}"
