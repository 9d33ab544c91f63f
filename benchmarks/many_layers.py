"""A model of 2,000 small layers: what a run does beside solving, per layer.

    python benchmarks/many_layers.py [--write]

Exits 1 if a layer of 64 × 64 takes more than 10 ms beside its solution while it is calibrated and pruned.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from checks import Check, table
from onnx import TensorProto, helper, numpy_helper
from results_files import write_results

LAYERS, WIDTH, SAMPLES = 2000, 64, 256
LIMIT = 10.0  # ms


def make_chain(path: Path) -> None:
    """Writes a chain of layers, with an activation after each of the first of two and a residual around both."""
    random = np.random.default_rng(0)
    nodes, weights, stream = [], [], "x"
    for layer in range(LAYERS):
        drawn = random.standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5
        weights.append(numpy_helper.from_array(drawn, f"weight{layer}"))
        if layer % 2 == 0:
            kept = stream
        nodes.append(helper.make_node("MatMul", [stream, f"weight{layer}"], [f"product{layer}"], name=f"layer{layer}"))
        operator, inputs = ("Tanh", [f"product{layer}"]) if layer % 2 == 0 else ("Add", [f"product{layer}", kept])
        stream = f"stream{layer}"
        nodes.append(helper.make_node(operator, inputs, [stream], name=f"after{layer}"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", stream)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def measure(folder: Path) -> list[Check]:
    """Runs the command on the chain."""
    make_chain(folder / "chain.onnx")
    samples = np.random.default_rng(1).standard_normal((SAMPLES, WIDTH), dtype=np.float32)
    np.savez(folder / "samples.npz", x=samples)
    command = [sys.executable, "-m", "prox24_export", str(folder / "chain.onnx"), "-o", str(folder / "out"), "--quiet"]
    options = ["--calibration", str(folder / "samples.npz"), "--no-refine", "--permute", "no", "--engine", "none"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    solving = sum(layer["seconds"] or 0.0 for layer in report["layers"])
    pruned = sum(layer["state"] == "sparse" for layer in report["layers"])
    beside = 1000 * (report["seconds"]["prune"] - solving) / LAYERS
    name = f"{LAYERS:,} layers of {WIDTH} × {WIDTH}"
    return [
        Check(name, "layers pruned", pruned, "≥", LAYERS),
        Check(name, "ms of solving per layer", 1000 * solving / LAYERS),
        Check(name, "ms beside it per layer", beside, "≤", LIMIT),
        Check(name, "seconds of the run", report["seconds"]["total"]),
    ]


def main() -> int:
    """Measures; 1 if the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/many_layers.{json,md}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks = measure(Path(folder))
    print(table(checks))
    if arguments.write:
        write_results("many_layers", [asdict(check) | {"passed": check.passed} for check in checks], table(checks))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
