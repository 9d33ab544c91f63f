"""ONNX models with external data: peak of anonymous memory against their size, and processor time against their depth.

    python benchmarks/streaming.py [--parts default,magnitude,size,depth] [--shared] [--write]

The models are random transformers that `large_onnx.py` writes.

`default` and `magnitude`: one of 3 GB, three blocks by default and all blocks by magnitude: peak, executions of nodes,
accuracy, and that the input is untouched. `size`: 150 MB, 600 MB and 1.2 GB by magnitude; with `magnitude` the slope of
the peak. `depth`: 4 to 32 blocks by magnitude: processor time. Takes 10 GB of disk. Exits 1 if a limit is missed; with
`--write` parts join with those in the results.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from anonymous_memory import measure_command
from checks import Check, table
from large_onnx import count_block_bytes, make_samples, make_transformer
from results_files import RESULTS, write_results

WIDTH, BLOCKS = 1024, 90  # 3 GB, a block is 1.1 % of it
SAMPLES = 64
SIZES = {"150 MB": 150e6, "600 MB": 600e6, "1.2 GB": 1.2e9}
DEPTHS, DEEP_WIDTH = (4, 8, 16, 32), 512
FIRST = [part for block in range(3) for part in ("--include", f"block{block}.*")]
MAGNITUDE = ["--method", "magnitude"]
LARGE = {"default": ("3 GB, three blocks by default", FIRST), "magnitude": ("3 GB, magnitude", MAGNITUDE)}
Row = dict[str, Any]


def run(model: Path, samples: Path, out: Path, options: Sequence[str]) -> Row:
    """A run of the command: what it took, and what its report says."""
    command = [sys.executable, "-m", "prox24_export", str(model), "--calibration", str(samples), "-o", str(out)]
    measured = measure_command([*command, "--quiet", *options])
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    executed = report["executions"]
    return {
        "bytes": model.with_name(f"{model.name}.data").stat().st_size,
        "peak_mb": measured.peak_mb,
        "seconds": measured.seconds,
        "processor_seconds": measured.processor_seconds,
        "passes": executed["calibration"] / 2 / executed["dense_pass"],
        "sparse": sum(layer["state"] == "sparse" for layer in report["layers"]),
        "accuracy": report["accuracy"] is not None,
    }


def digest(model: Path) -> str:
    """The digest of a model and its data."""
    found = hashlib.sha256(model.read_bytes())
    with model.with_name(f"{model.name}.data").open("rb") as data:
        while piece := data.read(1 << 24):
            found.update(piece)
    return found.hexdigest()


def measure_large(part: str, folder: Path) -> Iterator[Row]:
    """The model of 3 GB, three blocks by default or all of it by magnitude."""
    model, samples = folder / "large.onnx", folder / "samples.npz"
    make_transformer(model, BLOCKS, WIDTH)
    make_samples(samples, SAMPLES, WIDTH)
    before = digest(model)
    title, options = LARGE[part]
    row = run(model, samples, folder / "out", options)
    yield {"part": part, "model": title, "untouched": digest(model) == before} | row


def measure_sizes(folder: Path) -> Iterator[Row]:
    """Models of the same width and other depths, by magnitude."""
    samples = folder / "samples.npz"
    make_samples(samples, SAMPLES, WIDTH)
    for title, size in SIZES.items():
        model = folder / "model.onnx"
        make_transformer(model, round(size / count_block_bytes(WIDTH)), WIDTH)
        row = run(model, samples, folder / "out", [*MAGNITUDE, "--force"])
        yield {"part": "size", "model": f"{title}, magnitude"} | row


def measure_depths(folder: Path) -> Iterator[Row]:
    """Models of 4 to 32 blocks, by magnitude."""
    samples = folder / "samples.npz"
    make_samples(samples, SAMPLES, DEEP_WIDTH)
    for depth in DEPTHS:
        model = folder / "model.onnx"
        make_transformer(model, depth, DEEP_WIDTH)
        row = run(model, samples, folder / "out", [*MAGNITUDE, "--force"])
        yield {"part": "depth", "model": f"{depth} blocks", "depth": depth} | row


def check_rows(rows: Sequence[Row]) -> Iterator[Check]:
    """Every promised figure of the parts that were measured."""
    for row in rows:
        limit = ("≤", 1200.0) if row["part"] in LARGE else ("", 0.0)
        yield Check(row["model"], "peak of anonymous memory, MB", row["peak_mb"], *limit)
        if row["part"] in LARGE:
            yield Check(row["model"], "dense passes per stream", row["passes"], "≤", 2.5)
            yield Check(row["model"], "layers pruned", row["sparse"], "≥", 18 if row["part"] == "default" else 540)
            yield Check(
                row["model"], "input untouched, accuracy measured", row["untouched"] and row["accuracy"], "≥", 1
            )
    sized = [row for row in rows if row["part"] in {"size", "magnitude"}]
    if len(sized) > len(SIZES):
        slope = np.polyfit([row["bytes"] for row in sized], [2**20 * row["peak_mb"] for row in sized], 1)[0]
        yield Check("150 MB to 3 GB", "bytes of peak a byte of model", float(slope), "≤", 0.10)
    deep = [row for row in rows if row["part"] == "depth"]
    if deep:
        depths, seconds = [row["depth"] for row in deep], [row["processor_seconds"] for row in deep]
        correlation = float(np.corrcoef(depths, seconds)[0, 1])
        yield Check("4 to 32 blocks", "R² of processor time", correlation**2, "≥", 0.99)


def tabulate(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| model | bytes | peak, MB | seconds | processor seconds | dense passes per stream | pruned |"]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        f"| {row['model']} | {row['bytes']:,} | {row['peak_mb']:,.0f} | "
        f"{'shared machine' if row.get('shared') else format(row['seconds'], '.0f')} | "
        f"{row['processor_seconds']:.0f} | {row['passes']:.2f} | {row['sparse']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures the parts that are asked for; 1 if a figure misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="default,magnitude,size,depth")
    parser.add_argument("--shared", action="store_true", help="other work runs beside it: seconds are left out")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/streaming.{json,md}")
    arguments = parser.parse_args()
    measures = {part: partial(measure_large, part) for part in LARGE} | {"size": measure_sizes, "depth": measure_depths}
    rows: list[Row] = []
    for part in arguments.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for row in measures[part](Path(folder)):
                print(row, file=sys.stderr, flush=True)
                rows.append(row | ({"shared": True} if arguments.shared else {}))
    file = RESULTS / "streaming.json"
    if arguments.write:
        earlier = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
        parts = {row["part"] for row in rows}
        rows = sorted([*(row for row in earlier if row["part"] not in parts), *rows], key=lambda row: row["part"])
    checks = list(check_rows(rows))
    text = f"{table(checks)}\n{tabulate(rows)}"
    print(text)
    if arguments.write:
        write_results("streaming", rows, text)
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
