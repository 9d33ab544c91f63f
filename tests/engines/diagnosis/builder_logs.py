"""Builder logs as TensorRT and the programs around it write them."""

from prox24_export.engines.diagnosis.builder_log import SparsityLog

PREFIXES = {
    "trtexec": "[08/05/2024-12:06:54] [{level}] [TRT] ",
    "python": "[07/07/2026-06:14:38] [TRT] [{level}] ",
    "python 8.0": "[TensorRT] {word}: ",
    "polygraphy": "[{letter}] ",
    "polygraphy with times": "[{letter}] (12:06:54) ",
    "torch-tensorrt": "{word}: [Torch-TensorRT TensorRT Conversion Context] - ",
    "bare": "",
}


def prefix(style: str, *, verbose: bool) -> str:
    letter = "X" if verbose else "V"  # Polygraphy's EXTRA_VERBOSE holds TensorRT's VERBOSE
    return PREFIXES[style].format(level="VI"[not verbose], word="VERBOSE" if verbose else "INFO", letter=letter)


def pair(
    eligible: list[str], chosen: list[str], style: str, *, old: bool = False, foreign: bool = False, bare: str = ""
) -> list[str]:
    """Both lines as TensorRT writes them."""
    if old:
        texts = (
            "(Sparsity) Layers eligible for sparse math: ",
            "(Sparsity) TRT inference plan picked sparse implementation for layers: ",
        )
    else:
        texts = (
            f"(Sparsity) Found {len(eligible)} layer(s) eligible to use sparse tactics: ",
            f"(Sparsity) Chose {len(chosen)} layer(s) using sparse tactics: ",
        )
    head = prefix(style, verbose=not old) + (" (foreignNode) " if foreign else "") + bare
    return [head + text + ", ".join(names) for text, names in zip(texts, (eligible, chosen), strict=True)]


def lists(log: SparsityLog) -> tuple[list[str] | None, list[str] | None]:
    return tuple(None if found is None else list(found.names) for found in (log.eligible, log.chosen))  # type: ignore[return-value]


EXCERPT_G = """\
[07/07/2026-06:14:38] [TRT] [V]  (foreignNode) (Sparsity) Found 1 layer(s) eligible to use sparse tactics: node_linear
[07/07/2026-06:14:38] [TRT] [V]  (foreignNode) (Sparsity) Chose 0 layer(s) using sparse tactics:
[07/07/2026-06:14:38] [TRT] [V] (Sparsity) Found 2 layer(s) eligible to use sparse tactics: node_conv2d + node_relu, node_conv2d_1 + node_relu_1
[07/07/2026-06:14:38] [TRT] [V] (Sparsity) Chose 0 layer(s) using sparse tactics:
"""  # noqa: E501 (as it was written)

MISSING = "lists eligible layers, but the list of chosen ones after it is missing"
