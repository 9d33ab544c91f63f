"""Runs the command on an exported model, and holds what it says and writes against what is in the model."""

import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from prox24_export.passes.graph.protocol import Reason
from prox24_export.results.reader import load_report

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 900.0  # seconds of one run
LARGE = 0.01  # share of the parameters from which on a dense weight needs a reason that helps
PAGE = ROOT / "docs" / "why-not-sparse.md"  # says of every reason what the user can do
WAYS_OUT = re.compile(
    r"\b(give|export|use|expected|leave|store|save|add|install|choose|cut|fold|repair|see|merge)\b", re.IGNORECASE
)
ACTIVATIONS = Reason.NOT_CONSTANT.value
MULTIPLYING = {
    "MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,), "Einsum": (0, 1), "LSTM": (1, 2),
    "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip # the inputs that may be a weight


@dataclass(frozen=True)
class Case:
    """An exported model.

    Attributes:
        family: The kind of model.
        way: How it was exported.
        model: The file or directory.
        samples: Its samples, an .npz file.
        weights: Number of entries of the weight of every linear module of the torch model, by name; 0 where the
            exported model holds it in another form.
        folded: Names of those whose input is the same for every sample, so that an exporter may compute their output.
    """

    family: str
    way: str
    model: Path
    samples: Path
    weights: Mapping[str, int]
    folded: Collection[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of one model.

    Attributes:
        family: The kind of model.
        way: How it was exported.
        kind: `pruned`, `refused` or `not exported`.
        modules: Number of linear modules of the torch model.
        layers: Number of layers that the report lists, products of two activations left out.
        pruned: Number of those that are pruned.
        verified: Whether the command says that the pattern is verified.
        line: The accuracy that it prints, or the sentence with which it refuses.
        seconds: Wall time of the command.
        faults: What is wrong, one sentence each.
    """

    family: str
    way: str
    kind: str
    modules: int = 0
    layers: int = 0
    pruned: int = 0
    verified: bool = False
    line: str = ""
    seconds: float = 0.0
    faults: Sequence[str] = field(default_factory=tuple)


def judge(case: Case, more: Sequence[str] = ()) -> Outcome:
    """Runs the command by its defaults, but for what more is given, and checks how it ends."""
    out = case.model.parent / "out"
    command = [sys.executable, "-m", "prox24_export", str(case.model), "--calibration", str(case.samples)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    began = time.perf_counter()
    try:
        run = subprocess.run(
            [*command, "--out", str(out), "--force", *more],
            capture_output=True, text=True, check=False, env=environment, timeout=LIMIT, cwd=case.model.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Outcome(case.family, case.way, "refused", len(case.weights), seconds=LIMIT, faults=["it takes too long"])
    seconds = time.perf_counter() - began
    (out.parent / "said.txt").write_text(f"exit {run.returncode}\n{run.stdout}\n{run.stderr}", "utf-8")
    faults = [f"{word} in the output" for word in ("Traceback", "internal error") if word in run.stdout + run.stderr]
    known = {"family": case.family, "way": case.way, "modules": len(case.weights), "seconds": seconds}
    if run.returncode:
        sentence = run.stderr.strip().rpartition("prox24-export: ")[2].replace(f"{case.model.parent}/", "")
        if run.returncode != 2:
            faults.append(f"exit {run.returncode}")
        if not WAYS_OUT.search(sentence):
            faults.append("names no way out")
        return Outcome(**known, kind="refused", line=re.sub(r"\s+", " ", sentence).replace("|", "\\|"), faults=faults)
    report = load_report(out)
    layers = [layer for layer in report.layers if layer.weight or not layer.reason.startswith(ACTIVATIONS)]
    verified = bool(re.search(r"\d weights, verified\)", run.stdout))
    if report.sparse_layers and not verified:
        faults.append("not verified")
    faults += [f"{fault.stage} failed: {fault.message}" for fault in report.faults]
    faults += [*find_unhelpful(layers), *find_missing(case, layers)]
    if case.model.suffix == ".onnx":
        faults += find_unlisted(case.model, {text for layer in layers for text in (layer.name, layer.weight) if text})
    return Outcome(
        **known,
        kind="pruned",
        layers=len(layers),
        pruned=len(report.sparse_layers),
        verified=verified,
        line=describe(run.stdout),
        faults=faults,
    )


def describe(printed: str) -> str:
    """The lines on accuracy of what the command prints, and whether it was refined."""
    kept = [line for line in printed.splitlines() if re.match(r"output |.* dense, .* sparse on |(not )?refined", line)]
    return "; ".join(kept[:3]).replace("|", "\\|")


def find_unhelpful(layers: Sequence[Any]) -> Iterator[str]:
    """Yields what is wrong with the reasons of large layers that stay dense."""
    rows = re.findall(r"^\| `[A-Z_]+` \| (.+?) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    helpful = [said.split(" by some operator")[0] for said, remedy in rows if remedy.strip()]
    for layer in layers:
        helps = any(layer.reason.startswith(said) for said in helpful) and not layer.reason.startswith(ACTIVATIONS)
        if layer.state == "dense" and layer.share > LARGE and not helps:
            yield f"{layer.name} stays dense without help: {layer.reason}"


def find_missing(case: Case, layers: Sequence[Any]) -> Iterator[str]:
    """Yields how many linear modules of each size are not among the layers."""
    listed: dict[str, int] = defaultdict(int)
    for layer in layers:
        size = layer.parameters or (layer.k or 0) * (layer.n or 0)  # where it is computed, none is stored
        listed[re.sub(r"\[\d+\]$", "", layer.weight or layer.name)] += size
    needed = {name: size for name, size in case.weights.items() if name not in case.folded}
    wanted, there = Counter(size for size in needed.values() if size), Counter(listed.values())
    for size, count in (wanted - there).items():
        names = [name for name, entries in needed.items() if entries == size]
        yield f"{count} of {wanted[size]} weights of {size:,} entries are no layer: {', '.join(names[:4])}"
    if len(layers) < len(needed):
        yield f"{len(needed)} modules are {len(layers)} layers"


def find_unlisted(model: Path, listed: set[str]) -> Iterator[str]:
    """Yields the large initializers that a product reads, maybe through others nodes, and that are no layer."""
    graph = onnx.load(model).graph
    sizes = {tensor.name: onnx.numpy_helper.to_array(tensor).size for tensor in graph.initializer}
    total = sum(sizes.values())
    origins = {name: {name} for name in sizes}  # of every value that is computed from initializers alone
    for node in graph.node:
        for place in MULTIPLYING.get(node.op_type, ()):
            name = node.input[place] if place < len(node.input) else ""
            large = {origin for origin in origins.get(name, ()) if sizes[origin] > LARGE * total}
            if large and not ({name, node.name, f"{node.op_type}:{node.output[0]}"} | origins[name]) & listed:
                yield f"{', '.join(sorted(large))} of {node.op_type} {node.name} is no layer"
        if node.input and all(name in origins or not name for name in node.input):
            found = set().union(*(origins[name] for name in node.input if name))
            origins |= dict.fromkeys(node.output, found)
