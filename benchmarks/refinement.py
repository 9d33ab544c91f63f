"""What refining all layers together promises: accuracy, never worse, memory of segment mode. Part of acceptance.py.

python benchmarks/refinement.py
"""

import dataclasses
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from checks import Check, table
from models import MODELS, Files, Run, available, export, save

from prox24_export.passes.front_onnx.tensors import find_model_tensors

SEEDS = range(5)
LAYERWISE = "--no-refine"


def refinement_checks() -> Iterator[Check]:
    """Every figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if available("ResNet-20"):
            yield from resnet20(MODELS["ResNet-20"][1](folder), folder)
        if available("KWT-1"):
            yield from kwt1(MODELS["KWT-1"][1](folder), folder)
        if available("Magika"):
            run = export(MODELS["Magika"][1](folder), folder)
            yield Check("Magika, refined", "top-1 lost, points", run.dense - run.sparse, "≤", 0.3)
        if available("stories260K"):
            yield from stories(MODELS["stories260K"][1](folder), folder)


def resnet20(files: Files, folder: Path) -> Iterator[Check]:
    """A convolutional network: the default command, and few samples."""
    run = export(files, folder)
    yield Check("ResNet-20, refined", "top-1, % (dense 81.3)", run.sparse, "≥", 81.6)
    yield Check("ResNet-20, refined", "seconds", run.seconds, "≤", 90)
    yield Check("ResNet-20, refined", "pruned weights that Polygraphy calls dense", run.called_dense, "≤", 0)
    yield Check("ResNet-20, refined", "tensors changed beside pruned weights", changed(files[0], run), "≤", 0)
    for count in (16, 256):
        pairs = [compared(files, folder, count, seed) for seed in SEEDS]
        gains = [pair.gain for pair in pairs]
        kept = sum(pair.kept for pair in pairs)
        worst = min(pair.gain / pair.error if pair.error else 0.0 for pair in pairs)
        name = f"ResNet-20, {count} samples, 5 seeds"
        yield Check(name, "mean top-1 gained over layer-wise, points", statistics.fmean(gains), "≥", 0.0)
        yield Check(name, "worst gain, paired standard errors", worst, "≥", -2.0)
        yield Check(name, "runs in which it is kept", kept, "≥", 0 if count == 16 else 4)


def kwt1(files: Files, folder: Path) -> Iterator[Check]:
    """A transformer: three seeds, and segment by segment."""
    runs = [export(files, folder, "--seed", str(seed)) for seed in range(3)]
    yield Check("KWT-1, refined", "top-1, %, median of 3 seeds (dense 97.6)", median(runs), "≥", 97.0)
    yield Check("KWT-1, refined", "seconds", runs[0].seconds, "≤", 150)
    yield Check("KWT-1, refined", "tensors changed beside pruned weights", changed(files[0], runs[0]), "≤", 0)
    segments = export(files, folder, "--refine-mode", "segments")
    parts = {point["segment"] for point in segments.report["refinement"]["curve"]}
    yield Check("KWT-1, segments", "segments", len(parts), "≥", 12)
    yield Check("KWT-1, segments", "top-1, % (dense 97.6)", segments.sparse, "≥", 97.1)
    peaks = [memory(files, mode) for mode in ("segments", "model")]
    yield Check("KWT-1, segments", "peak memory above the start, of model mode's", peaks[0] / peaks[1], "≤", 0.5)


def stories(files: Files, folder: Path) -> Iterator[Check]:
    """A decoder, with 512 calibration rows and with all."""
    model, calibration, evaluation = files
    rows = np.load(calibration)["input_ids"]
    cut = save(folder / "stories_512.npz", input_ids=rows[:512])
    run = export((model, cut, evaluation), folder)
    yield Check("stories260K, refined", "perplexity, 512 rows (dense 4.76)", run.metric("sparse"), "≤", 8.0)
    yield Check("stories260K, refined", "seconds, 512 rows", run.seconds, "≤", 240)
    run = export(files, folder)
    yield Check("stories260K, refined", "perplexity, all rows (dense 4.76)", run.metric("sparse"), "≤", 6.2)
    yield Check("stories260K, refined", "seconds, all rows", run.seconds)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Refined against layer-wise on the same samples: points of top-1 gained, their paired standard error, decision."""

    gain: float
    error: float
    kept: bool


def compared(files: Files, folder: Path, count: int, seed: int) -> Pair:
    """Both runs on `count` samples drawn by `seed`."""
    options = ("--samples", str(count), "--seed", str(seed))
    refined, layerwise = export(files, folder, *options), export(files, folder, *options, LAYERWISE)
    right = [hits(run.out / "model.onnx", files[2]) for run in (refined, layerwise)]
    difference = 100 * (right[0].astype(np.float64) - right[1])
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    return Pair(float(difference.mean()), error, refined.report["refinement"]["kept"])


def hits(model: Path, evaluation: Path) -> np.ndarray[Any, Any]:
    """Which samples a model gets right."""
    arrays = dict(np.load(evaluation))
    labels = arrays.pop("labels")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, arrays)[0]).argmax(-1) == labels


def changed(model: Path, run: Run) -> int:
    """Tensors of the file that differ from the input's although they are no pruned weight."""
    pruned = {layer["weight"] for layer in run.report["layers"] if layer["state"] == "sparse"}
    before, after = (
        {name: tensor.SerializeToString() for name, tensor in find_model_tensors(onnx.load(path)) if name}
        for path in (model, run.out / "model.onnx")
    )
    return sum(before[name] != after.get(name) for name in before if name not in pruned)


MEMORY = """\
import resource, sys
import numpy as np
import torch
from pathlib import Path
from prox24_export.facts import machine
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.refine.differentiable import make_differentiable
from prox24_export.passes.refine.model import RefineModel
from prox24_export.solver.pattern import two_four_mask

graph = OnnxGraph(Path(sys.argv[1]))
array = np.load(sys.argv[2])["features"][:128].astype(np.float32)
function = make_differentiable(graph, {"features": array[:16]})
weights = {}
for layer in FindLinears().call(graph):
    if isinstance(layer, Linear):
        place = function.parameters[layer.weight]
        matrix = graph.weight(layer)
        pruned = layer.layout.from_matrix((matrix * two_four_mask(matrix)).numpy())
        weights[place] = torch.from_numpy(pruned)
masks = {name: weight != 0 for name, weight in weights.items()}
samples = [(torch.from_numpy(row[None]),) for row in array]
with torch.no_grad():
    function.module(torch.from_numpy(array[:16]))
start = machine.measure_resident_mb()
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: loading and checking took more
RefineModel(mode=sys.argv[3], batch=16, epochs=2).call(function.module, weights, masks, samples[:112], samples[112:])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024 - start)
"""


def memory(files: Files, mode: str) -> float:
    """Peak resident memory of refining KWT-1 above what is held when it starts, MB; same batch, no checkpointing."""
    command = [sys.executable, "-c", MEMORY, str(files[0]), str(files[1]), mode]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def median(runs: list[Run]) -> float:
    """Of top-1."""
    return statistics.median(run.sparse for run in runs)


if __name__ == "__main__":
    results = []
    for result in refinement_checks():
        results.append(result)
        print(table([result]).splitlines()[-1], flush=True)
    sys.exit(int(not all(result.passed for result in results)))
