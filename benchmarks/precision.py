"""What lower precision promises: 2:4 still verified, accuracy, a second checker that agrees. Part of acceptance.py.

python benchmarks/precision.py [--quick]

It also counts how many models the published converters get right, as they are, and when a dozen nodes are to stay in
float32 as overflow-prone ones must: that is why the pass places casts itself.
"""

import argparse
import functools
import glob
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from checks import Check, table
from models import DATA, MODELS, ROOT, Files, Run, available, called_dense, export

from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.protocol import Input
from prox24_export.passes.precision.lower import LowerPrecision
from prox24_export.passes.precision.quantised import is_quantised
from prox24_export.passes.precision.ranges import observe

CALIBRATION = 32  # samples
LOST = 0.3  # points of top-1 against the float32 sparse model
APART = 0.05  # of an output's largest magnitude: what a converter may differ by to count as right
STAY = 12  # nodes that the published converters are told to leave in float32
ELEMENTWISE = {"Add", "Mul", "Relu", "Sqrt"}
PUBLISHED = {"onnxruntime": "onnxruntime.transformers.float16", "onnxconverter-common": "onnxconverter_common.float16"}

Arrays = Mapping[str, np.ndarray[Any, Any]]
Convert = Callable[[Path, list[str], Path], None]


def precision_checks(*, quick: bool) -> Iterator[Check]:
    """Every figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [model for model in ("digits sample", "KWT-1", "ResNet-20") if available(model)]
        files = {model: MODELS[model][1](folder) for model in names}
        for model in names:
            run = export(files[model], folder, "--no-refine")
            for precision in ("fp16", "bf16"):
                yield from converted(model, files[model], run, precision)
    if not quick:
        yield from published()


def converted(model: str, files: Files, run: Run, precision: Any) -> Iterator[Check]:
    """One sparse model in a lower precision."""
    name = f"{model}, {precision}"
    sparse = OnnxGraph(run.out / "model.onnx")
    pruned = {layer["weight"] for layer in run.report["layers"] if layer["state"] == "sparse"}
    linears = [layer for layer in FindLinears().call(graph=sparse).linears if layer.weight in pruned]
    out = run.out / precision
    lowered = LowerPrecision(precision).call(
        source=sparse.path, target=out / "model.onnx", feeds=feeds(files), linears=linears
    )
    uses = sum(len(layer.uses) for layer in linears)
    yield Check(name, "uses of pruned weights not verified 2:4", uses - len(lowered.verified), "≤", 0)
    if precision == "fp16":  # Polygraphy's checker reads bfloat16 wrongly
        yield Check(name, "pruned weights that Polygraphy calls dense", called_dense(out, run.report), "≤", 0)
    lost = top1(sparse, files) - top1(OnnxGraph(lowered.path), files)
    yield Check(name, "top-1 lost against float32 sparse, points", lost, "≤", LOST)
    yield Check(name, "output apart, of its norm", max(lowered.differences.values()))
    yield Check(name, "nodes kept in float32", len(lowered.kept_in_fp32))


def feeds(files: Files) -> list[Arrays]:
    """A few calibration samples, one batch."""
    return [{name: array[:CALIBRATION] for name, array in as_fed(files[0], files[1]).items() if name != "labels"}]


def as_fed(model: Path, data: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays in the types of the model's inputs."""
    types = {entry.name: entry.dtype for entry in OnnxGraph(model).inputs}
    return {name: array.astype(types.get(name, array.dtype)) for name, array in np.load(data).items()}


def top1(graph: OnnxGraph, files: Files) -> float:
    """Per cent, every value rounded to its type."""
    arrays = as_fed(files[0], files[2])
    labels = arrays.pop("labels")
    cuts = [slice(start, start + CALIBRATION) for start in range(0, len(labels), CALIBRATION)]
    seen = observe(graph, [{name: array[cut] for name, array in arrays.items()} for cut in cuts], rounded=True)
    logits = np.concatenate([outputs[graph.outputs[0]] for outputs in seen.outputs])
    return float(100 * (logits.argmax(-1) == labels).mean())


def published() -> Iterator[Check]:
    """Every float32 ONNX file there is, by other converters and by this pass: how many they get right."""
    converters: dict[str, Convert] = {"this pass": own}
    for name, module in PUBLISHED.items():
        if find_spec(module.split(".", maxsplit=1)[0]) is None:
            print(f"skipped {name}: not installed", file=sys.stderr)
        else:
            converters[name] = functools.partial(by_other, import_module(module).convert_float_to_float16)
    cases = [
        case for path in [*sorted(DATA.glob("*/*.onnx")), MODELS["digits sample"][1](ROOT)[0]] if (case := of(path))
    ]
    for count in (0, STAY):
        for name, convert in converters.items():
            right = sum(is_right(name, convert, case, count) for case in cases)
            limit = ("≥", len(cases)) if name == "this pass" else ("", 0)
            yield Check(f"float16 by {name}", f"right, of {len(cases)} models, {count} nodes in float32", right, *limit)


@dataclass(frozen=True)
class Case:
    """A model, random feeds, and what it gives for them."""

    path: Path
    feeds: Arrays
    expected: Sequence[np.ndarray[Any, Any]]


def of(path: Path) -> Case | None:
    """None where the model is quantised, or does not run on random feeds."""
    try:
        graph = OnnxGraph(path)
        arrays = {entry.name: random(entry) for entry in graph.inputs}
        expected = graph.runner()(arrays)
    except Exception as error:  # noqa: BLE001 (whatever keeps the model from running, no converter is to blame)
        print(f"skipped {path.name}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
        return None
    return None if is_quantised(graph) else Case(path, arrays, expected)


def random(entry: Input) -> np.ndarray[Any, Any]:
    """Numbers between 0 and 1, or ones; images are 64 × 64, other dynamic sizes are 1."""
    sizes = [size if isinstance(size, int) else 0 for size in entry.shape or ()]
    image = len(sizes) == 4
    shape = [size or (64 if image and axis > 1 else 1) for axis, size in enumerate(sizes)]
    if entry.dtype.kind == "f":
        return np.random.default_rng(0).random(shape).astype(entry.dtype)
    return np.ones(shape, entry.dtype)


def own(path: Path, stay: list[str], target: Path) -> None:
    """This pass, without data, so that it knows no more than the others."""
    LowerPrecision(keep=tuple(map(glob.escape, stay))).call(source=path, target=target, feeds=[])


def by_other(function: Any, path: Path, stay: list[str], target: Path) -> None:
    """A published converter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(function(onnx.load(path), keep_io_types=True, node_block_list=stay), target)


def is_right(name: str, convert: Convert, case: Case, count: int) -> bool:
    """Whether the file loads and gives the same."""
    named = [node.name for node in onnx.load(case.path).graph.node if node.name and node.op_type in ELEMENTWISE]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "converted.onnx"
        try:
            convert(case.path, named[:count], target)
            found = OnnxGraph(target).runner()(case.feeds)
        except Exception as error:  # noqa: BLE001 (whatever a converter, or the runtime of its file, says is a failure)
            print(f"{name}, {count} in float32, {case.path.name}: {str(error).splitlines()[0][:160]}", file=sys.stderr)
            return False
    pairs = zip(case.expected, found, strict=True)
    return all(float(np.abs(one - other).max()) <= APART * float(np.abs(one).max()) for one, other in pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Checks what conversion to a lower precision promises.")
    parser.add_argument("--quick", action="store_true", help="leave the published converters out")
    results = []
    for result in precision_checks(quick=parser.parse_args().quick):
        results.append(result)
        print(table([result]).splitlines()[-1], flush=True)
    sys.exit(int(not all(result.passed for result in results)))
