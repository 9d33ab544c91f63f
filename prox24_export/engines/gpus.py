"""Peak rates of GPUs, from their vendor's data sheets.

Rates are dense ones. Where a sheet gives the figure with sparsity alone, half of it stands here, as its footnote says.
For GeForce the rate in fp16 is the one with sums in fp32. Real kernels reach a part of these rates; the bounds that
are made from them are bounds all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from prox24_export.option_values import GpuName

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class GpuRates:
    """What a GPU computes and moves in a second at most.

    Attributes:
        title: The GPU as its vendor calls it.
        fp16: Operations of its tensor cores in fp16 and bf16, on dense operands.
        int8: The same in int8.
        bandwidth: Bytes to and from its memory.
        source: Address of the figures.
        has_sparse_cores: Whether its tensor cores multiply 2:4-sparse weights at twice the rate.
    """

    title: str
    fp16: float
    int8: float
    bandwidth: float
    source: str
    has_sparse_cores: bool = True


_A100 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_ORIN = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcf21/jetson-orin/nvidia-jetson-agx-orin-technical-brief.pdf"
)

GPUS: Mapping[GpuName, GpuRates] = {
    "a100": GpuRates("NVIDIA A100 80GB SXM", 312 * TERA, 624 * TERA, 2039 * GIGA, _A100),
    "h100": GpuRates(
        "NVIDIA H100 SXM", 989.4 * TERA, 1978.9 * TERA, 3350 * GIGA, "https://www.nvidia.com/en-us/data-center/h100/"
    ),
    "h200": GpuRates(
        "NVIDIA H200 SXM", 989.4 * TERA, 1978.9 * TERA, 4800 * GIGA, "https://www.nvidia.com/en-us/data-center/h200/"
    ),
    "l4": GpuRates("NVIDIA L4", 121 * TERA, 242.5 * TERA, 300 * GIGA, "https://www.nvidia.com/en-us/data-center/l4/"),
    "l40s": GpuRates(
        "NVIDIA L40S", 362.05 * TERA, 733 * TERA, 864 * GIGA, "https://www.nvidia.com/en-us/data-center/l40s/"
    ),
    "orin": GpuRates("NVIDIA Jetson AGX Orin 64GB", 42.5 * TERA, 85 * TERA, 204.8 * GIGA, _ORIN),
    "rtx4090": GpuRates("NVIDIA GeForce RTX 4090", 165.2 * TERA, 660.6 * TERA, 1008 * GIGA, _ADA),
    "t4": GpuRates(
        *("NVIDIA T4", 65 * TERA, 130 * TERA, 320 * GIGA, "https://www.nvidia.com/en-us/data-center/tesla-t4/"),
        has_sparse_cores=False,
    ),
}
"""The GPUs by the names that `--gpu` takes."""
