"""Torch programs: `.pt2` files, modules, and functions that return a module."""

import functools
import hashlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from prox24_export import facts, user_code
from prox24_export.errors import InputError, first_line
from prox24_export.passes.front_torch.emit_onnx import EmitOnnx
from prox24_export.passes.front_torch.graph import FxGraph, expect_fx_graph
from prox24_export.passes.front_torch.trace import make_functional, replace_tensors, trace
from prox24_export.passes.graph.arrays import Array, as_array, as_tensor
from prox24_export.passes.graph.experts import replace_parts
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.results.report import FileFacts

LABELS = "labels"  # beside calibration inputs, never one of them
PROGRAM, ONNX_MODEL = "model.pt2", "model.onnx"
RETURNS = "returns (module, example inputs)"


@dataclass(frozen=True)
class TorchProgram:
    """The front end; see `frontends.Frontend`. Writes `model.pt2`, and always `model.onnx` too.

    Attributes:
        path: Where it was read from, or what messages call it.
        make: Reads or traces the program.
    """

    path: Path
    make: Callable[[], ExportedProgram]
    always_onnx: bool = True

    def open(self) -> TracedGraph:
        """The program as a graph.

        Raises:
            InputError: It cannot be read or traced.
        """
        return FxGraph(self.path, self.make())

    def facts(self) -> FileFacts:
        """Of the file; of a module, size and digest of its tensors."""
        if self.path.is_file():
            return facts.file_facts(self.path, self.path)
        state = self.make().state_dict
        digest = hashlib.sha256()
        for name, tensor in state.items():
            digest.update(name.encode() + as_array(tensor).tobytes())
        return FileFacts(str(self.path), sum(tensor.nbytes for tensor in state.values()), digest.hexdigest())

    def write(self, graph: TracedGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """See `Frontend.write`."""
        program = expect_fx_graph(graph).program
        tensors = replace_parts(weights, program.state_dict, as_tensor)
        path = folder / PROGRAM
        torch.export.save(replace_tensors(program, tensors), path)
        return path

    def expect_onnx(self, graph: TracedGraph) -> None:
        """See `frontends.Frontend`."""
        EmitOnnx.requires(expect_fx_graph(graph).program, str(self.path))

    def write_onnx(self, graph: TracedGraph, folder: Path) -> Path:
        """See `Frontend.write_onnx`."""
        path = folder / ONNX_MODEL
        EmitOnnx().call(program=expect_fx_graph(graph).program, file=path)
        return path


def of_file(path: Path) -> TorchProgram:
    """A `.pt2` file."""
    return TorchProgram(path, functools.cache(lambda: _read(path)))


def of_function(spec: str) -> TorchProgram:
    """`module:function` that returns a module and example inputs: a tensor, a tuple of them, or a dictionary."""

    def make() -> ExportedProgram:
        returned = user_code.run(spec, "model", RETURNS, lambda function: function())
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], nn.Module)):  # noqa: PLR2004
            raise InputError(f"{spec} returned a {type(returned).__name__}. Expected a function that {RETURNS}.")
        return _traced(*returned, spec)

    return TorchProgram(Path(spec), functools.cache(make))


def of_module(module: nn.Module, example: Any) -> TorchProgram:
    """A module with example inputs, as `of_function` has them."""
    name = type(module).__name__
    return TorchProgram(Path(name), functools.cache(lambda: _traced(module, example, name)))


def _traced(module: nn.Module, example: Any, name: str) -> ExportedProgram:
    """Traced on two samples: a size of one would become part of the program."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = {key: _doubled(value) for key, value in example.items() if key != LABELS}
    else:
        args = tuple(_doubled(value) for value in (example if isinstance(example, (tuple, list)) else (example,)))
    return trace(module, args, kwargs, name)


def _doubled(value: Any) -> Any:
    if not isinstance(value, Tensor) and hasattr(value, "__array__"):
        value = as_tensor(np.asarray(value))
        value = value.float() if value.dtype == torch.float64 else value  # NumPy's own default, not the model's
    single = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 1
    return torch.cat([value, value]) if single else value


def _read(path: Path) -> ExportedProgram:
    """Reads a file of which nothing can run code.

    Raises:
        InputError: It is missing, unreadable, or holds pickled objects.
    """
    if not path.is_file():
        raise InputError(f"no such model: {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            _expect_plain(path, archive)
        with _tensors_only():
            return make_functional(torch.export.load(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is no exported program: {first_line(error)}. Expected torch.export.save's."
        ) from error


def _expect_plain(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses objects that only code can make, and names that two readers could understand differently."""
    names = archive.namelist()
    odd = [name for name in names if "custom_obj" in name or "opaque_obj" in name]
    if len(set(names)) < len(names):
        odd = [next(name for name in names if names.count(name) > 1)]
    if odd:
        raise InputError(
            f"{path} holds an object that is no tensor ({odd[0]}), which can run any code when it is read. Expected "
            "tensors only: export the model without custom objects."
        )


@contextmanager
def _tensors_only() -> Iterator[None]:
    """While a program is read, nothing but tensors is unpickled, whatever torch's reader asks for."""
    load, loads = torch.load, pickle.loads

    def tensors(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **options | {"weights_only": True})

    def refused(*_arguments: Any, **_options: Any) -> Any:
        raise InputError("the program holds a pickled object, which can run any code when it is read.")

    torch.load, pickle.loads = tensors, refused
    try:
        yield
    finally:
        torch.load, pickle.loads = load, loads
