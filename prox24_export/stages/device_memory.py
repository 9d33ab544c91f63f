"""Work that a GPU has no room for is done in smaller blocks, and ends with a clear error where that does not help."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from prox24_export.errors import Prox24Error
from prox24_export.facts.out_of_memory import is_out_of_memory
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.process.interrupts import how_to_resume
from prox24_export.settings import Settings
from prox24_export.stages.memory import GB, MB, estimate_observing_mb

Done = TypeVar("Done")
HALVINGS = 6  # of batches and of pieces of layers: a 64th of their usual size


@dataclass(frozen=True)
class Blocks:
    """What work is divided into.

    Attributes:
        name: What they are called where they are halved.
        halvings: How often they may be halved.
        smallest: What does not fit in the end, with its verb.
        instead: Options with which a new run may have room.
    """

    name: str
    halvings: int
    smallest: str
    instead: str


OF_LAYERS = Blocks(
    "blocks of this size",
    HALVINGS,
    f"samples one by one and pieces of layers of 1/{2**HALVINGS} of their usual size do not fit",
    "--device cpu, or with --exclude for the widest layers",
)


class DeviceMemoryError(Prox24Error):
    """A GPU has no room for the work, in blocks of any size."""


def expect_room_for_matrices(
    graph: TracedGraph, linears: Sequence[Linear], settings: Settings, parts: int, device: torch.device
) -> None:
    """Expects a GPU to be large enough for the Gram matrices of every stage, which smaller blocks leave as they are.

    Args:
        graph: The model.
        linears: The layers to prune.
        settings: The options of the run.
        parts: Number of parts that the data are divided into.
        device: The device, which may be the CPU.

    Raises:
        DeviceMemoryError: It is not.
    """
    if device.type == "cpu" or not linears:
        return
    stages = schedule(graph, linears)
    sizes = [estimate_observing_mb(stage, settings, parts) * MB for stage in stages]
    needed, total = max(sizes), torch.cuda.mem_get_info(device)[1]
    if needed > total:
        names = ", ".join(linear.name for linear, _ in stages[sizes.index(needed)].observed[:3])
        raise DeviceMemoryError(
            f"{device} has too little memory: the Gram matrices before {names} take {needed / GB:.1f} GB, and it has "
            f"{total / GB:.1f}. Run with --device cpu, or leave these layers dense with --exclude."
        )


def do_in_smaller_blocks(
    work: Callable[[int], Done],
    devices: Sequence[torch.device],
    tell: Callable[[str], None] = lambda _: None,
    blocks: Blocks = OF_LAYERS,
    first: int = 0,
) -> Done:
    """Does work, and does it again in blocks of half the size as long as the GPU has no room for it.

    Args:
        work: Does it, given how often the size of its blocks is to be halved. It is called again after it failed.
        devices: The devices of the work, which are the CPU or GPUs.
        tell: Told each time, in a sentence.
        blocks: What the work is divided into.
        first: How often its blocks are halved at first.

    Raises:
        DeviceMemoryError: The smallest blocks do not fit either.
    """
    last = max(first, blocks.halvings)
    for halvings in range(first, last + 1):
        try:
            return work(halvings)
        except RuntimeError as error:
            if devices[0].type == "cpu" or not is_out_of_memory(error):
                raise
            if halvings < last:
                tell(f"{' or '.join(map(str, devices))} has no room for {blocks.name}: they are halved")
        gc.collect()  # what the failed attempt held
        torch.cuda.empty_cache()
    (free, total), device = min((torch.cuda.mem_get_info(device), str(device)) for device in devices)
    raise DeviceMemoryError(
        f"{device} has too little memory: {free / GB:.1f} of {total / GB:.1f} GB are free, and {blocks.smallest}. "
        f"{_find_way_out(blocks)}"
    )


def _find_way_out(blocks: Blocks) -> str:
    """Says how to go on: with what is solved, where the run keeps a journal of that."""
    there = "where more of the same GPU's memory is free"
    if how_to_resume() is None:
        return f"Run again {there}, or with {blocks.instead}."
    return (
        f"What is solved is kept: run the same command again {there}, or start anew with --no-resume and "
        f"{blocks.instead}."
    )
