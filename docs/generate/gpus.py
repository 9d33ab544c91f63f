"""The table of GPUs that `inspect --gpu` knows, from the code, with the addresses of its figures."""

from docs.generate.tables import render_table
from prox24_export.engines.gpus import GIGA, GPUS, TERA, GpuRates


def render_gpus() -> str:
    """Every GPU with its dense peak rates."""
    header = ("`--gpu`", "GPU", "fp16, TFLOPS", "int8, TOPS", "memory, GB/s", "2:4", "figures from")
    return render_table(header, (_row(name, rates) for name, rates in GPUS.items()))


def _row(name: str, rates: GpuRates) -> tuple[str, ...]:
    figures = (rates.fp16 / TERA, rates.int8 / TERA, rates.bandwidth / GIGA)
    sparse = "twice the rate" if rates.has_sparse_cores else "none"
    return f"`{name}`", rates.title, *(f"{figure:g}" for figure in figures), sparse, f"[NVIDIA]({rates.source})"
