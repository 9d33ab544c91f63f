"""ONNX files through a real NVIDIA builder, TensorRT for RTX, on a machine without GPU and driver.

`PROX24_TRT_RTX` names the folder of its libraries, which a wheel holds:

    pip download --no-deps -d WHEEL onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0
    unzip WHEEL/*.whl -d LIBRARIES
    export PROX24_TRT_RTX=LIBRARIES/onnxruntime_ep_nv_tensorrt_rtx

It shows that a file is parsed and built, with every warning, and what became of each node. It shows neither sparse
tactics, which this builder decides on once it sees a GPU, nor speed.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.shapes import ShapeRange
from tests.engines.tensorrt.real_builder import library
from tests.engines.tensorrt.real_builder.layers import RealLayer, read_layers

VARIABLE = "PROX24_TRT_RTX"
WHEEL = "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"
LIMIT = 120.0  # seconds; the largest model of the benchmark takes 3
SIZES = (1, 4, 16)  # smallest, likeliest and largest size of an axis that a file leaves open
LETTERS = "EEWIV"  # of the severities internal error, error, warning, info, verbose
# Said of every input of 64-bit integers: a fact for who feeds the engine, and nothing that the file could do better.
NOTICES = ("Make sure input ",)


class RealBuilderError(Exception):
    """The builder could not be tried, crashed, or took too long; a file that it refuses is no such error."""


class NoLibrariesError(RealBuilderError):
    """There are no libraries of the builder; tests skip."""


@dataclass(frozen=True)
class RealEngine:
    """What the builder made of a file.

    Attributes:
        plan_bytes: The size of the engine; 0 where there is none.
        plan_digest: The SHA-256 of the engine; empty where there is none.
        messages: Everything that was said, as pairs of a letter (E, W, I, V) and the text.
        layers: The layers of the engine.
    """

    plan_bytes: int
    plan_digest: str
    messages: tuple[tuple[str, str], ...]
    layers: tuple[RealLayer, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        """The errors."""
        return tuple(text for letter, text in self.messages if letter == "E")

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, without the notice that every input of 64-bit integers gets."""
        return tuple(text for letter, text in self.messages if letter == "W" and not _is_notice(text))

    @property
    def notices(self) -> tuple[str, ...]:
        """The notices that are left out of the warnings."""
        return tuple(text for letter, text in self.messages if letter == "W" and _is_notice(text))

    @property
    def log(self) -> str:
        """The messages as the text of a log, each with the prefix of its severity."""
        return "".join(f"[{letter}] [TRT] {text}\n" for letter, text in self.messages)

    def find_unnamed(self, nodes: Iterable[str]) -> list[str]:
        """Finds the ONNX nodes that no layer of the engine names."""
        named = {node for layer in self.layers for node in layer.nodes}
        return [node for node in nodes if node not in named]

    def find_faults(self, nodes: Iterable[str] = ()) -> list[str]:
        """Finds what is wrong with the engine, a sentence each; none where all is right.

        Args:
            nodes: The ONNX nodes that must be in a layer of the engine, such as all that multiply by a weight.
        """
        faults = [] if self.plan_bytes else ["no engine was built"]
        faults += [f"error: {text}" for text in self.errors]
        faults += [f"warning: {text}" for text in self.warnings]
        return faults + [f"no layer of the engine names {node}" for node in self.find_unnamed(nodes)]


def find_linear_nodes(model: Path) -> list[str]:
    """Finds the nodes of an ONNX file that multiply by a stored weight which can be pruned, by the names of the report.

    Args:
        model: The file in float32: the nodes of its copies in other precisions have the same names.

    Raises:
        InputError: The file is unreadable.
    """
    return [use.node for linear in FindLinears().call(graph=OnnxGraph(model)).linears for use in linear.uses]


def find_libraries() -> Path:
    """Finds the folder of the builder's libraries.

    Raises:
        NoLibrariesError: The variable is not set, or its folder lacks the libraries.
        RealBuilderError: The libraries there are of another version.
    """
    place = os.environ.get(VARIABLE)
    if not place:
        raise NoLibrariesError(f"no real builder: set {VARIABLE} to the folder of its libraries, as .ci/run unpacks it")
    missing = [name for name in (library.BUILDER, library.PARSER) if not (Path(place) / name).is_file()]
    if not missing:
        return Path(place)
    others = sorted(file.name for file in Path(place).glob("libtensorrt*_rtx.so.*"))
    if others:
        raise RealBuilderError(
            f"{VARIABLE}: expected version {library.VERSION} in {place}, found {', '.join(others)}. Methods are called "
            f"by their place in that version's tables. Unpack {WHEEL}."
        )
    raise NoLibrariesError(f"no real builder: {place} lacks {' and '.join(missing)}. Unpack {WHEEL} there ({VARIABLE})")


def build(
    model: Path,
    *,
    shapes: Mapping[str, ShapeRange] | None = None,
    compute_capability: int = 89,
    sparse_weights: bool = False,
    limit: float = LIMIT,
) -> RealEngine:
    """Parses and builds a file in a process of its own.

    Args:
        model: The ONNX file.
        shapes: The range of shapes of inputs with open axes, by name. Other open axes have a size from 1 to 16.
        compute_capability: What to build for, ten times: 75, 80, 86, 89, 120 or 121.
        sparse_weights: Whether to allow sparse tactics; the plan of this version is the same either way.
        limit: The seconds that the process may take.

    Raises:
        NoLibrariesError: There are no libraries.
        RealBuilderError: They are of another version, or the process crashed or took longer than that.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        request = {
            "libraries": str(find_libraries()),
            "model": str(model.resolve()),
            "compute_capability": compute_capability,
            "sparse_weights": sparse_weights,
            "shapes": {name: (found.min, found.opt, found.max) for name, found in (shapes or {}).items()},
            "sizes": SIZES,
            "result": str(result),
        }
        _run(json.dumps(request), model, limit)
        found = json.loads(result.read_text(encoding="utf-8"))
    if "refused" in found:
        raise RealBuilderError(f"the real builder did not try {model.name}: {found['refused']}")
    messages = tuple((LETTERS[severity], text) for severity, text in found["messages"])
    layers = tuple(read_layers(text for _, text in messages))
    return RealEngine(found["plan_bytes"], found["plan_digest"], messages, layers)


def _run(request: str, model: Path, limit: float) -> None:
    command = [sys.executable, "-I", str(Path(library.__file__))]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise RealBuilderError(
            f"the real builder took more than {limit:g} s for {model.name} and was ended."
        ) from error
    if done.returncode < 0:
        raise RealBuilderError(f"the real builder crashed on {model.name}: {signal.Signals(-done.returncode).name}.")
    if done.returncode:
        raise RealBuilderError(f"the real builder failed on {model.name}: {done.stderr.strip()}")


def _is_notice(text: str) -> bool:
    return any(notice in text for notice in NOTICES)
