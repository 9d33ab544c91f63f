"""What a plan assumes of a GPU. Nothing here was measured by this project: rates are those of data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from prox24_export.engines.gpus import GPUS, TERA
from prox24_export.option_values import GpuName
from prox24_export.stages.device import read_number
from prox24_export.stages.plan.rates import Rates

SHARE = 0.4  # of a peak rate that is taken to be reached: in practice work takes two to three times as long
UPLOAD = 1e10  # bytes a second to the GPU, over PCIe of the fourth generation
PARTS = 3  # products of bfloat16 that make up one of the mask solver
ENTRY = 24  # bytes that the prox of an entry reads and writes, float32
WIDE: Mapping[GpuName, tuple[float, float]] = {  # operations a second in float32 and float64 outside of tensor cores
    "a100": (19.5 * TERA, 9.7 * TERA),
    "h100": (67 * TERA, 34 * TERA),
    "h200": (67 * TERA, 34 * TERA),
}
ASSUMED: GpuName = "a100"  # where there is no GPU, or one that is not in the table


@dataclass(frozen=True)
class GpuPlan:
    """The GPU that a plan is made for.

    Attributes:
        gpu: Its name in the table of data sheets.
        seen: What the GPU that torch sees here is called; empty where it sees none.
    """

    gpu: GpuName
    seen: str = ""

    @property
    def rates(self) -> Rates:
        """The rates that are taken to be reached."""
        single, double = (SHARE * peak for peak in WIDE[self.gpu])
        sheet = GPUS[self.gpu]
        return Rates(
            single=single,
            double=double,
            rounded=SHARE * sheet.fp16 / PARTS,
            cholesky=3 * double,  # K³/3 operations
            inverse=single,
            entries=SHARE * sheet.bandwidth / ENTRY,
        )

    def list_assumptions(self) -> tuple[str, ...]:
        """Lists what is assumed, one sentence each without its full stop."""
        (single, double), sheet = WIDE[self.gpu], GPUS[self.gpu]
        where = f"{self.seen}, computing as" if self.seen else "no GPU is here, where a run would end with exit code 3;"
        shares = (
            f"{SHARE:.0%} of its data sheet's {single / TERA:g} TFLOP/s in float32, {double / TERA:g} in float64 and "
            f"{sheet.fp16 / TERA:g} in bfloat16, of which one product of the mask solver takes {PARTS}"
        )
        return (
            f"{where} an {sheet.title}",
            shares,
            f"{UPLOAD / 1e9:g} GB/s to the GPU, and memory of host and GPU counted together",
            "one GPU, also with --device cuda:all",
            "none of these rates was measured by this project, nor this plan held against a run on a GPU",
        )


def find_planned_gpu(asked: str) -> GpuPlan | None:
    """Finds the GPU that a plan is made for; None where it is made for the CPU.

    Args:
        asked: The option `--device`.
    """
    is_there = torch.cuda.is_available() and torch.cuda.device_count() > read_number(asked)
    if asked == "cpu" or (asked == "auto" and not is_there):
        return None
    if not is_there:
        return GpuPlan(ASSUMED)
    seen = torch.cuda.get_device_name(read_number(asked))
    return GpuPlan(next((name for name in WIDE if name in seen.lower()), ASSUMED), seen)
