"""`README.md` of a directory for transformers that has none: what the model is, what it lost, and its limits."""

from prox24_export.report import outcome
from prox24_export.report.deploy import NO_SERVER
from prox24_export.report.markdown_table import escape_text
from prox24_export.results.report import Report

NAME = "README.md"
HEAD = """\
---
library_name: transformers
tags:
- sparsity
- "2:4"
- prox24-export
---
"""


def render(report: Report) -> str:
    """Renders the card."""
    accuracy, layers = outcome.describe_accuracy(report), outcome.describe_layers(report)
    weights = sum(layer.parameters for layer in report.sparse_layers)
    data = report.data
    samples = (
        "The masks are not based on data: no samples were given."
        if data is None or data.is_random
        else f"Masks and weights were fitted to {data.fit + data.choice:,} unlabelled samples."
    )
    return f"""{HEAD}
# A 2:4-sparse model

{escape_text(accuracy, 400)}; {escape_text(layers, 200)} ({weights:,} weights, verified): of every four consecutive
weights along the reduction dimension at most two are not zero.

It was made by {report.tool} {escape_text(report.versions.get(report.tool, ""))} without training on labels. {samples}
The dense model's licence and limits hold for it as well.

## How to use it

It loads with `from_pretrained` as the dense model does.

{NO_SERVER}
"""
