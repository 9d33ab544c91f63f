"""The memory that the refinement of KWT-1 takes, in a process of its own."""

import subprocess
import sys

from models import Files

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
for layer in FindLinears().call(graph=graph).layers:
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
RefineModel(mode=sys.argv[3], batch=16, epochs=2, rate=1e-3).call(
    dense=function.module, weights=weights, masks=masks, fit=samples[:112], choice=samples[112:]
)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024 - start)
"""


def measure_peak(files: Files, mode: str) -> float:
    """Peak resident memory of refining KWT-1 above what is held when it starts, in MB, in batches of the same size."""
    command = [sys.executable, "-c", MEMORY, str(files[0]), str(files[1]), mode]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
