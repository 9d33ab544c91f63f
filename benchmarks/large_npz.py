"""The memory that a run takes with 100,000 samples in a file of 1 GB, beside one with the first 1,000 of them.

    python benchmarks/large_npz.py [--write] [--samples 100000] [--few 1000] [--limit 100] [--pooled]

The model is a perceptron of 2,560 inputs and 32 hidden channels; both runs go by default, and the refinement is
limited to a tenth of a minute. With `--pooled` the model first averages its inputs in sixteens: the samples are as
large, and far less is computed. What counts is the largest anonymous memory of the process, which is what no other file
holds: pages of the file belong to the system's cache. It is read every few milliseconds. Exits 1 if it grows by more
than the limit, in MB (2²⁰ bytes).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from results_files import write_results

WIDTH, HIDDEN, CLASSES, POOLED = 2560, 32, 8, 16
COMMAND = (sys.executable, "-m", "prox24_export")
OPTIONS = ("--refine-minutes", "0.1", "--engine", "none", "--quiet")
EVERY = 0.004  # seconds between two looks at the process
MB = 1 << 20


@dataclass(frozen=True)
class Peak:
    """What one run took.

    Attributes:
        samples: The number of samples in its file.
        file: The size of the file in MB.
        memory: Its largest anonymous memory in MB.
        seconds: Its wall time.
    """

    samples: int
    file: float
    memory: float
    seconds: float


def write_model(folder: Path, *, is_pooled: bool) -> Path:
    """Writes the perceptron, with weights drawn from a fixed seed."""
    draw = np.random.default_rng(0).standard_normal
    width = WIDTH // POOLED if is_pooled else WIDTH
    first = "s = Reshape(x, shape) m = ReduceMean<keepdims = 0>(s, axis) h = MatMul(m, w)"
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> '
        f"g (float[N,{WIDTH}] x) => (float[N,{CLASSES}] y) "
        f"{{ {first if is_pooled else 'h = MatMul(x, w)'} r = Relu(h) y = MatMul(r, v) }}"
    )
    model = onnx.parser.parse_model(text)
    tensors = {"shape": np.array([0, POOLED, width]), "axis": np.array([1])} if is_pooled else {}
    for name, shape in (("w", (width, HIDDEN)), ("v", (HIDDEN, CLASSES))):
        tensors[name] = (draw(shape) / shape[0] ** 0.5).astype(np.float32)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(tensor, name) for name, tensor in tensors.items())
    path = folder / "perceptron.onnx"
    onnx.save(model, path)
    return path


def write_samples(file: Path, samples: int) -> None:
    """Writes samples, a thousand at a time, as `numpy.savez` would: float32 [samples, 2560], stored plainly."""
    values = np.lib.format.open_memmap(file.with_suffix(".npy"), "w+", np.float32, (samples, WIDTH))
    for start in range(0, samples, 1000):
        draw = np.random.default_rng(start).standard_normal((min(1000, samples - start), WIDTH), np.float32)
        values[start : start + len(draw)] = draw
    np.savez(file, x=values)
    del values
    file.with_suffix(".npy").unlink()


def measure_run(model: Path, samples: int, folder: Path) -> Peak:
    """Runs the command on samples, and watches its memory.

    Raises:
        RuntimeError: The run failed.
    """
    data = folder / f"{samples}.npz"
    write_samples(data, samples)
    begun = time.perf_counter()
    out = folder / f"out-{samples}"
    process = subprocess.Popen([*COMMAND, model, "--calibration", data, "-o", out, *OPTIONS], stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, read_anonymous_mb(process.pid))
        time.sleep(EVERY)
    if process.returncode != 0:
        raise RuntimeError(f"the run on {samples:,} samples ended with {process.returncode}")
    return Peak(samples, data.stat().st_size / MB, peak, time.perf_counter() - begun)


def read_anonymous_mb(process: int) -> float:
    """Reads the anonymous memory of a process in MB; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def show_table(peaks: Sequence[Peak], limit: float) -> str:
    """The figures as Markdown, and whether the limit is kept."""
    rows = [f"| {one.samples:,} | {one.file:,.0f} | {one.memory:,.0f} | {one.seconds:.0f} |" for one in peaks]
    grown = peaks[-1].memory - peaks[0].memory
    said = f"The peak grows by {grown:,.0f} MB (limit {limit:,.0f})."
    return "\n".join(["| samples | file, MB | peak, MB | seconds |", "|---|---|---|---|", *rows, "", said]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures both runs and prints what they take."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="write results/large_npz.md and .json")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=100.0)
    parser.add_argument("--pooled", action="store_true", help="a model that computes less on samples of the same size")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        model = write_model(Path(name), is_pooled=options.pooled)
        peaks = [measure_run(model, samples, Path(name)) for samples in (options.few, options.samples)]
    table = show_table(peaks, options.limit)
    print(table)
    if options.write:
        write_results("large_npz", [vars(peak) for peak in peaks], table)
    return 0 if peaks[-1].memory - peaks[0].memory <= options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
