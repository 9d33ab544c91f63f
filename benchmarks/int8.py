"""What INT8 costs after pruning: both models in float and in INT8, and `onnxruntime.quantization` beside it.

    python benchmarks/int8.py [--model NAME…] [--seed N…] [--shared] [--write]

Each seed splits and orders the calibration samples its own way. `onnxruntime.quantization` gets the sparse model that
this tool wrote, all calibration samples, and the types that TensorRT takes: symmetric INT8 per output channel for
weights and per tensor for activations. All accuracies are of QuantizeLinear and DequantizeLinear executed in float.
`--write` joins the rows with those that stand in the results. Exits 1 where a check is missed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from checks import Check, table
from models import MODELS, Files, Run, available, export
from onnx import numpy_helper
from results_files import RESULTS, write_results

from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.front_onnx.graph import OnnxGraph

Row = dict[str, Any]
MEASURED = ("digits sample", "KWT-1", "ResNet-20", "Magika")
LEAST = {"KWT-1": 97.0}  # top-1 of the sparse INT8 file, median over seeds
MOST_POINTS = 0.5  # that INT8 may cost against the sparse float model
MOST_BYTES = 0.27  # of the float32 bytes of the weights that are quantised
BATCH = 32


def measure(name: str, seed: int, folder: Path) -> Row:
    """Runs the command once, and the library on what it wrote."""
    files = MODELS[name][1](folder)
    run = export(files, folder, "--precision", "int8", "--seed", str(seed))
    ours, theirs = run.out / "engines" / "sparse.int8.onnx", folder / f"library-{seed}.onnx"
    quantise_by_library(run.out / "model.onnx", theirs, files[1])
    hits = [find_hits(file, files) for file in (ours, theirs)]
    gain = hits[0].astype(np.float64) - hits[1]
    engine = run.report["engine"]
    return {
        "model": name,
        "seed": seed,
        "dense": run.dense,
        "dense_int8": engine["dense_accuracy"]["top1"],
        "sparse": run.sparse,
        "sparse_int8": engine["accuracy"]["top1"],
        "library": 100 * float(hits[1].mean()),
        "error": 100 * float(gain.std(ddof=1) / np.sqrt(gain.size)),
        "weights": measure_weight_bytes(ours),
        "file": engine["sizes"]["sparse onnx"] / engine["sizes"]["sparse float"],
        "pruned": pruned_in_int8(run, ours),
        "scales": engine["scales"],
        "seconds": run.seconds,
    }


def quantise_by_library(source: Path, target: Path, calibration: Path) -> None:
    """Writes a static QDQ file with `onnxruntime.quantization`: ranges are extremes, which is its default.

    Only products are quantised: with additions too, which are those of Magika's norm, it had 24.2 % top-1 there.
    """
    from onnxruntime import quantization  # noqa: PLC0415 (slow to import)

    given = OnnxGraph(source).inputs
    arrays = np.load(calibration)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc] # has no types
        """Batches of the calibration samples."""

        def __init__(self) -> None:
            (value,) = given
            array = arrays[value.name].astype(value.dtype)
            self._rest = iter([{value.name: array[at : at + BATCH]} for at in range(0, len(array), BATCH)])

        def get_next(self) -> dict[str, Any] | None:
            """The next batch; None behind the last."""
            return next(self._rest, None)

    quantization.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )


def find_hits(file: Path, files: Files) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each evaluation sample, whether the largest output is at the label."""
    arrays = np.load(files[2])
    (given,) = OnnxGraph(file).inputs
    session = runtime.open_session(file)
    found = []
    for at in range(0, len(arrays["labels"]), BATCH):
        batch = arrays[given.name][at : at + BATCH].astype(given.dtype)
        scores = session.run(None, {given.name: batch})[0]
        found.append(scores.reshape(len(batch), -1).argmax(1) == arrays["labels"][at : at + BATCH])
    return np.concatenate(found)


def measure_weight_bytes(file: Path) -> float:
    """Bytes of the quantised weights with their scales, of what they took in float32."""
    model = onnx.load(file)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    small = sum(stored[name].nbytes for name in {name for node in weights for name in node.input})
    return small / sum(4 * stored[node.input[0]].size for node in weights)


def pruned_in_int8(run: Run, file: Path) -> str:
    """How many of the pruned layers multiply INT8 weights, by the names of the nodes."""
    sparse = {layer["name"] for layer in run.report["layers"] if layer["state"] == "sparse"}
    model = onnx.load(file)
    makes = {name: node for node in model.graph.node for name in node.output}
    quantised = {
        node.name
        for node in model.graph.node
        if len(node.input) > 1 and node.input[1] in makes and makes[node.input[1]].op_type == "DequantizeLinear"
    }
    return f"{len(sparse & quantised)} of {len(sparse)}"


def check_rows(rows: Sequence[Row]) -> Iterator[Check]:
    """The promised figures of the rows that there are; of several seeds the median."""
    for name in MEASURED:
        own = [row for row in rows if row["model"] == name]
        if not own:
            continue
        found = statistics.median(row["sparse_int8"] for row in own)
        lost = statistics.median(row["sparse"] - row["sparse_int8"] for row in own)
        if name in LEAST:
            yield Check(name, f"top-1 of sparse INT8, median of {len(own)}", found, "≥", LEAST[name])
        yield Check(name, f"points that INT8 costs after pruning, median of {len(own)}", lost, "≤", MOST_POINTS)
        gains = [(row["sparse_int8"] - row["library"]) / row["error"] if row["error"] else 0.0 for row in own]
        yield Check(name, "gain over the library, in standard errors, median", statistics.median(gains), "≥", -1)
        yield Check(name, "bytes of quantised weights, of float32", max(row["weights"] for row in own), "≤", MOST_BYTES)


def tabulate(rows: Sequence[Row]) -> str:
    """The rows as Markdown, top-1 in per cent."""
    heads = ("model", "seed", "dense", "dense INT8", "sparse", "sparse INT8", "library's INT8", "± of the difference")
    lines = [f"| {' | '.join(heads)} | weights' bytes | file's bytes | pruned in INT8 | seconds |", f"|{'---|' * 12}"]
    for row in rows:
        figures = (row[key] for key in ("dense", "dense_int8", "sparse", "sparse_int8", "library", "error"))
        told = " | ".join(f"{figure:.2f}" for figure in figures)
        sizes = f"{row['weights']:.3f} × | {row['file']:.3f} ×"
        seconds = "shared machine" if row.get("shared") else f"{row['seconds']:.0f}"
        lines.append(f"| {row['model']} | {row['seed']} | {told} | {sizes} | {row['pruned']} | {seconds} |")
    return "\n".join(lines) + "\n"


def join_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows that were measured before and are not measured again, and the new ones."""
    file = RESULTS / "int8.json"
    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    new = {(row["model"], row["seed"]) for row in rows}
    joined = [*(row for row in before if (row["model"], row["seed"]) not in new), *rows]
    return sorted(joined, key=lambda row: (MEASURED.index(row["model"]), row["seed"]))


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the checks, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Accuracy and size in INT8, with and without pruning.")
    parser.add_argument("--model", nargs="+", choices=MEASURED, default=list(MEASURED), help="models; by default all")
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="seeds; by default 0")
    parser.add_argument("--shared", action="store_true", help="other work runs beside it: seconds are left out")
    parser.add_argument("--write", action="store_true", help="join the rows with benchmarks/results/int8.json")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    for name in filter(available, given.model):
        for seed in given.seed:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(name, seed, Path(folder)) | ({"shared": True} if given.shared else {}))
            print(tabulate(rows[-1:]).splitlines()[-1], flush=True)
            if given.write:
                joined = join_rows(rows)
                write_results("int8", joined, f"{table(list(check_rows(joined)))}\n{tabulate(joined)}")
    checks = list(check_rows(join_rows(rows) if given.write else rows))
    print(table(checks))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
