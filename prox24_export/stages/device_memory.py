"""Work that a GPU has no room for is done in smaller blocks, and ends with a clear error where that does not help."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from prox24_export.errors import Prox24Error
from prox24_export.process.interrupts import how_to_resume
from prox24_export.stages.memory import GB

Done = TypeVar("Done")
HALVINGS = 6  # of batches and of pieces of layers: a 64th of their usual size


class DeviceMemoryError(Prox24Error):
    """A GPU has no room for the work, in blocks of any size."""


def do_in_smaller_blocks(
    work: Callable[[int], Done], device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> Done:
    """Does work, and does it again in blocks of half the size as long as the GPU has no room for it.

    Args:
        work: Does it, given how often the size of its blocks is to be halved. It is called again after it failed.
        device: The device of the work.
        tell: Told each time, in a sentence.

    Raises:
        DeviceMemoryError: The smallest blocks do not fit either.
    """
    for halvings in range(HALVINGS + 1):
        try:
            return work(halvings)
        except torch.OutOfMemoryError:
            if device.type == "cpu":
                raise
            if halvings < HALVINGS:
                tell(f"{device} has no room for blocks of this size: they are halved")
        gc.collect()  # what the failed attempt held
        torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    raise DeviceMemoryError(
        f"{device} has too little memory: {free / GB:.1f} of {total / GB:.1f} GB are free, and samples one by one and "
        f"pieces of layers of 1/{2**HALVINGS} of their usual size do not fit. {_find_way_out()}"
    )


def _find_way_out() -> str:
    """Says how to go on: with what is solved, where the run keeps a journal of that."""
    there, smaller = (
        "where more of the same GPU's memory is free",
        "--device cpu, or with --exclude for the widest layers",
    )
    if how_to_resume() is None:
        return f"Run again {there}, or with {smaller}."
    return f"What is solved is kept: run the same command again {there}, or start anew with --no-resume and {smaller}."
