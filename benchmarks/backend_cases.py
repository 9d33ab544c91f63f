"""The cases by which ONNX backends are tested, with a weight in the file: what inspect and a whole run say of each.

    python benchmarks/backend_cases.py [--write]

Of `onnx.backend.test.case.node` every case with MatMul, Gemm, Conv or ConvTranspose is taken. The input behind the
operator's weight becomes an initializer with the values of the case, and the other inputs are fed as they are. Each is
pruned by magnitude in this process. Exits 1 where anything ends otherwise than with a model or with a sentence that
says why there is none.
"""

import argparse
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from results_files import write_results

from prox24_export import export, inspect
from prox24_export.errors import Prox24Error
from prox24_export.passes.graph.protocol import Linear
from prox24_export.settings import Settings

OPERATORS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
SHOWN = 3  # names of cases beside a sentence


@dataclass(frozen=True)
class Outcome:
    """What was said of a case.

    Attributes:
        case: Its name.
        kind: `pruned`, `dense`, `refused` or `FAILED`.
        sentence: Why nothing was pruned; for `pruned` the number of layers.
    """

    case: str
    kind: str
    sentence: str


def collect_cases() -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Yields the cases: their name, the model with its weights in it, and the arrays of the inputs that are left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases of other operators divide by zero on purpose
        from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415 - says so when it is loaded

        cases = collect_testcases(None)
    for case in cases:
        if case.model is None or not case.data_sets:
            continue
        if OPERATORS.intersection(node.op_type for node in case.model.graph.node):
            given = zip(case.model.graph.input, case.data_sets[0][0], strict=True)
            arrays = {value.name: np.asarray(array) for value, array in given}
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            yield case.name, model, store_weights(model, arrays)


def store_weights(model: onnx.ModelProto, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Makes an initializer of each input behind a weight, and returns the arrays of the others; the first one stays."""
    left = dict(arrays)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in OPERATORS:
            continue
        name = node.input[1]
        while name in makers and makers[name].input:
            name = makers[name].input[0]
        if name in left and name != model.graph.input[0].name:
            model.graph.initializer.append(numpy_helper.from_array(left.pop(name), name))
    kept = [value for value in model.graph.input if value.name in left]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return left


def run_case(name: str, model: onnx.ModelProto, feeds: dict[str, Any], folder: Path) -> Outcome:
    """Inspects and prunes one case."""
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        layers = inspect(path)
        report = export(path, [feeds, feeds], folder / "out", settings=Settings(method="magnitude", force=True))
    except Prox24Error as error:
        return Outcome(name, "refused", shorten(str(error), path))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return Outcome(name, "FAILED", f"{type(error).__name__}: {shorten(str(error), path)}")
    if report.faults or not report.passed:
        return Outcome(name, "FAILED", "; ".join(f"{fault.stage}: {fault.message}" for fault in report.faults))
    pruned = len(report.sparse_layers)
    if pruned:
        return Outcome(name, "pruned", f"{pruned} of {len(report.layers)}")
    reasons = dict.fromkeys(re.sub(r" \(.*", "", layer.reason or "") for layer in report.layers)
    found = any(isinstance(layer, Linear) for layer in layers)
    if not reasons and found:
        return Outcome(name, "FAILED", "inspect finds a layer that the run does not")
    return Outcome(name, "dense", "; ".join(reasons) or "no linear layer")


def shorten(sentence: str, path: Path) -> str:
    """A sentence without what differs from case to case."""
    return re.sub(r"\s+", " ", sentence.replace(str(path), "MODEL").replace("|", "\\|"))[:300]


def tabulate(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown: how many cases there are of each sentence, and the names of a few."""
    groups: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.kind, outcome.sentence), []).append(outcome.case)
    totals = {
        kind: sum(outcome.kind == kind for outcome in outcomes) for kind in ("pruned", "dense", "refused", "FAILED")
    }
    head = f"{len(outcomes)} cases: " + ", ".join(f"{count} {kind}" for kind, count in totals.items()) + "."
    lines = [head, "", "| outcome | sentence, or layers | cases | such as |", "|---|---|---|---|"]
    for (kind, sentence), names in sorted(groups.items(), key=lambda group: (group[0][0], -len(group[1]))):
        shown = ", ".join(name.removeprefix("test_") for name in names[:SHOWN])
        lines.append(f"| {kind} | {sentence} | {len(names)} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs all cases."""
    parser = argparse.ArgumentParser(description="Runs the ONNX backend's cases that multiply by a weight.")
    parser.add_argument("--write", action="store_true", help="write the result under benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        outcomes = [run_case(*case, Path(name)) for case in collect_cases()]
    table = tabulate(outcomes)
    print(table)
    if arguments.write:
        write_results(
            "backend_cases", [asdict(outcome) for outcome in outcomes], table, facts={"onnx": onnx.__version__}
        )
    return 1 if any(outcome.kind == "FAILED" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
