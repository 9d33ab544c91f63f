"""Every method on every model we have, side by side: README's table.

    python benchmarks/methods.py [--methods prox,refined] [--models NAME,...] [--write]

Top-1 in per cent (perplexity of language models) on the evaluation data, which no method sees; no labels anywhere.
`refined` is the default command, the others are layer by layer. Models and data are read from `PROX24_TEST_DATA`
(default `../shared/data`); what is absent is skipped with the reason. Methods that `--methods` leaves out, and
models that `--models` leaves out, keep the figures of the last results.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import MODELS, available, export
from results_files import RESULTS, write_results

METHODS = ("magnitude", "wanda", "sparsegpt", "prox-gradient", "prox", "refined")


def measure(model: str, folder: Path, methods: Sequence[str], row: dict[str, Any]) -> dict[str, Any]:
    """Dense and sparse figure by method, wall seconds of each, and peak memory of the last one.

    Args:
        model: Its name.
        folder: Where data and outputs are written.
        methods: What to measure.
        row: The figures that are known.
    """
    files = MODELS[model][1](folder)
    row = row | {"model": model}
    for method in methods:
        options = () if method == "refined" else ("--method", method, "--no-refine")
        run = export(files, folder, *options)
        dense, sparse = run.metric("dense"), run.metric("sparse")
        row |= {"dense": dense, method: sparse, f"{method} seconds": run.seconds, "peak_gb": run.peak_gb}
        print(f"{model}: {method} {sparse:.2f} (dense {dense:.2f}) in {run.seconds:.1f} s", flush=True)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| model | dense | " + " | ".join(METHODS) + " | peak GB |", "|---" * (len(METHODS) + 3) + "|"]
    for row in rows:
        figures = " | ".join(f"{row[method]:.1f} ({row[f'{method} seconds']:.0f} s)" for method in METHODS)
        lines.append(f"| {row['model']} | {row['dense']:.1f} | {figures} | {row['peak_gb']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; writes with `--write`."""
    parser = argparse.ArgumentParser(description="Every method on every model.")
    parser.add_argument("--methods", default=",".join(METHODS), help="which to measure again, separated by commas")
    parser.add_argument("--models", default=",".join(MODELS), help="on which, separated by commas")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/methods.{json,md}")
    arguments = parser.parse_args()
    wanted = arguments.models.split(",")
    chosen = [method for method in METHODS if method in arguments.methods.split(",")]
    is_whole = chosen == [*METHODS] and wanted == [*MODELS]
    known = [] if is_whole else json.loads((RESULTS / "methods.json").read_text(encoding="utf-8"))["rows"]
    before = {row["model"]: row for row in known}
    rows: list[dict[str, Any]] = []
    for model in filter(available, MODELS):
        if model not in wanted:
            rows += [before[model]] if model in before else []
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(model, Path(folder), chosen, before.get(model, {})))
    print(table(rows))
    if arguments.write:
        write_results("methods", rows, table(rows), facts={"measured": chosen, "on": wanted})


if __name__ == "__main__":
    main()
