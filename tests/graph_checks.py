"""A whole run on a random graph, and what must hold of the written file, checked with onnx and numpy alone.

    python -m tests.graph_checks FIRST LAST [--write]

checks the graphs of these seeds, the last one left out, and exits with 1 where one is wrong. `--write` puts the outcome
under benchmarks/results.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.results_files import write_results
from prox24_export import export
from prox24_export.data.random_samples import draw_random
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.settings import Settings
from tests.graphs import run, save
from tests.random_graphs import make_graph

SAMPLES = 5
SOLVED_EVERY = 10  # every so many graphs are solved by the default method instead of by magnitude
PASSED_THROUGH = {"Identity", "Cast", "Transpose"}


class WrongGraphError(AssertionError):
    """What came out of a run on a random graph is wrong."""


def expect(holds: object, what: str) -> None:
    if not holds:
        raise WrongGraphError(what)


def check_graph(seed: int, folder: Path) -> int:
    """Runs the graph of a seed, expects everything of the outcome, and counts the pruned weights.

    Raises:
        WrongGraphError: Something does not hold.
        Prox24Error: The run refuses the graph.
    """
    graph, dense = make_graph(seed)
    path = save(dense, folder)
    by_magnitude = seed % SOLVED_EVERY != 0
    method = Settings(method="magnitude") if by_magnitude else Settings(refine="no")
    settings = replace(method, samples=SAMPLES)
    report = export(path, None, folder / "out", settings=settings)
    expect(report.passed and not report.faults, f"the run did not pass: {report.gates} {report.faults}")
    sparse = onnx.load(folder / "out" / "model.onnx")
    pruned = {layer.weight for layer in report.layers if layer.state == "sparse" and layer.weight}
    prunable = graph.find_prunable({value.name for value in dense.graph.output})
    unseen = {layer.weight for layer in report.layers if "its input was always zero" in (layer.reason or "")}
    for name in unseen & prunable:
        _expect_unseen(dense, str(name), [use.output for use in graph.uses[str(name)]], path, settings)
    prunable -= unseen
    expect(pruned == prunable, f"pruned are {sorted(pruned)}, and prunable {sorted(prunable)}")
    expect_untouched(dense, sparse, pruned)
    before, after = find_stored(dense.graph), find_stored(sparse.graph)
    for name in pruned:
        expect_pattern(sparse.graph, name, after[name])
        if by_magnitude:
            kept = after[name] != 0
            expect((after[name] == np.where(kept, before[name], 0)).all(), f"{name} was changed where it was kept")
    expect_same_outputs(sparse, draw_feeds(dense, graph.random), half=graph.half)
    return len(pruned)


def find_stored(graph: onnx.GraphProto) -> dict[str, Array]:
    """All stored tensors by name."""
    return {name: numpy_helper.to_array(tensor) for name, tensor in _walk_tensors(graph)}


def _walk_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            yield node.output[0], node.attribute[0].t


def expect_untouched(dense: onnx.ModelProto, sparse: onnx.ModelProto, pruned: set[str]) -> None:
    """Expects that both files are the same byte for byte once the pruned weights are taken out."""
    copies = []
    for proto in (dense, sparse):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for name, tensor in _walk_tensors(copy.graph):
            if name in pruned:
                tensor.ClearField("raw_data")
                tensor.ClearField("name")
        copies.append(copy.SerializeToString(deterministic=True))
    expect(copies[0] == copies[1], "more than the pruned weights has changed")


def _expect_unseen(dense: onnx.ModelProto, name: str, outputs: Sequence[str], path: Path, settings: Settings) -> None:
    """Expects that no product with a weight depends on it on the samples of a run, of which the report has one."""
    without = onnx.ModelProto()
    without.CopyFrom(dense)
    for stored, tensor in _walk_tensors(without.graph):
        if stored == name:
            tensor.raw_data = bytes(len(tensor.raw_data))
    samples = draw_random(OnnxGraph(path).inputs, {}, {}, SAMPLES, settings.seed)
    for output in outputs:
        pairs = [(_compute(dense, output, one.feeds), _compute(without, output, one.feeds)) for one in samples]
        changed = sum(not np.array_equal(left, right) for left, right in pairs)
        expect(changed <= 1, f"{output} depends on {name}, which is said to have seen only zeros")


def expect_pattern(graph: onnx.GraphProto, name: str, array: Array) -> None:
    """Expects 2:4 at every node that reads a weight, through all that only changes its layout or type."""
    pending = [(name, array)]
    while pending:
        read, value = pending.pop()
        for node in graph.node:
            for index in (index for index, other in enumerate(node.input) if other == read):
                flags = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
                if node.op_type in PASSED_THROUGH:
                    pending.append((node.output[0], _pass_through(node.op_type, value, flags)))
                else:
                    rows = _as_reduced_rows(node.op_type, index, value, flags)
                    found = (rows.reshape(len(rows), -1, 4) != 0).sum(-1).max()
                    expect(found <= 2, f"{name} has {found} of four entries at {node.op_type} {node.output[0]}")


def _pass_through(op: str, value: Array, flags: Mapping[str, Any]) -> Array:
    if op == "Transpose":
        return value.transpose(flags.get("perm"))
    return value.astype(onnx.helper.tensor_dtype_to_np_dtype(flags["to"])) if op == "Cast" else value


def _as_reduced_rows(op: str, index: int, value: Array, flags: Mapping[str, Any]) -> Array:
    """A weight as rows along which a node sums up its products, by what the operator's specification says."""
    if op == "MatMul":
        return value.T if index == 1 else value
    if op == "Gemm":
        is_turned = flags.get("transB" if index == 1 else "transA", 0)
        return value if bool(is_turned) == (index == 1) else value.T
    expect(op == "Conv" and index == 1 and flags.get("group", 1) == 1, f"a pruned weight is read by {op}")
    return np.moveaxis(value, 1, -1).reshape(len(value), -1)


def draw_feeds(proto: onnx.ModelProto, random: np.random.Generator) -> dict[str, Array]:
    """Draws the input of a random graph; a dynamic batch has three rows."""
    given = proto.graph.input[0].type.tensor_type
    shape = [dim.dim_value or 3 for dim in given.shape.dim]
    return {"x": random.standard_normal(shape).astype(onnx.helper.tensor_dtype_to_np_dtype(given.elem_type))}


def _compute(proto: onnx.ModelProto, name: str, feeds: Mapping[str, Array]) -> Array:
    """Computes one value of a model by the specification's own evaluator."""
    if name in feeds:
        return feeds[name]
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.add(name=name)
    (value,) = ReferenceEvaluator(copy).run(None, dict(feeds))
    return np.asarray(value)


def expect_same_outputs(proto: onnx.ModelProto, feeds: Mapping[str, Array], *, half: bool) -> None:
    """Expects ONNX Runtime to compute what the specification's own evaluator does, which rounds every float16."""
    for ours, wanted in zip(run(proto, feeds), ReferenceEvaluator(proto).run(None, dict(feeds)), strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        off = np.abs(ours.astype(np.float64) - wanted) / scale
        far = off.mean() if half else off.max()
        expect(ours.shape == wanted.shape and far < (3e-2 if half else 1e-4), f"outputs are {far:.1e} off")


def main(first: int, last: int, *, writes: bool = False) -> int:
    """Checks a range of seeds, prints what is wrong, and returns an exit code; a signal ends the range earlier."""
    wrong = pruned = done = 0
    began = time.process_time()
    with suppress(KeyboardInterrupt):
        for seed in range(first, last):
            with tempfile.TemporaryDirectory() as name:
                try:
                    pruned += check_graph(seed, Path(name))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                    wrong += 1
                    print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)  # noqa: T201
            done += 1
    told = f"{done} graphs, {pruned} pruned weights, {wrong} wrong"
    print(told)  # noqa: T201
    if writes:
        row = {"first": first, "graphs": done, "pruned": pruned, "wrong": wrong}
        row["seconds"] = round(time.process_time() - began)
        text = f"Seeds from {first} on: {told}; {row['seconds']} s of processor time.\n"
        write_results("graphs", [row], text, facts={"onnx": onnx.__version__})
    return 1 if wrong or not pruned else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(*map(int, sys.argv[1:3]), writes="--write" in sys.argv[3:]))
