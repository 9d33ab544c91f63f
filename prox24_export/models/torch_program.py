"""Torch programs: `.pt2` files, modules, and functions that return a module."""

import functools
import hashlib
import importlib
import logging
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2
from torch.utils import _pytree as pytree

from prox24_export import user_code
from prox24_export.data.sample_groups import LABELS
from prox24_export.errors import InputError, first_line
from prox24_export.facts.files import describe_files
from prox24_export.input_files import expect_file
from prox24_export.models.frontend import ONNX_MODEL
from prox24_export.models.program_archive import expect_harmless
from prox24_export.models.program_targets import is_container
from prox24_export.passes.front_torch.emit_onnx import EmitOnnx
from prox24_export.passes.front_torch.graph import FxGraph, expect_fx_graph
from prox24_export.passes.front_torch.trace import make_functional, replace_tensors, trace
from prox24_export.passes.graph.arrays import Array, as_array, as_tensor
from prox24_export.passes.graph.experts import replace_parts
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.process.offline import stay_offline
from prox24_export.results.report import FileFacts

PROGRAM = "model.pt2"
RETURNS = "returns (module, example inputs)"
KIND = re.compile(r'"type": "([\w.]+)"')  # of a container, in the JSON of torch's trees


@dataclass(frozen=True)
class TorchProgram:
    """The front end of a torch program; see `Frontend`. It writes `model.pt2`, and always `model.onnx` too.

    Attributes:
        path: Where the program is read from, or what messages call it.
        make: Reads or traces the program; the result is kept for further calls.
        always_onnx: True: whoever runs torch programs elsewhere may need the ONNX file.
    """

    path: Path
    make: Callable[[], ExportedProgram]
    always_onnx: bool = True

    @classmethod
    def from_file(cls, path: Path) -> "TorchProgram":
        """A program in a `.pt2` file."""
        return cls(path, functools.cache(lambda: _read_program(path)))

    @classmethod
    def from_function(cls, spec: str) -> "TorchProgram":
        """A program traced from the module and the example inputs that a function of the user's returns.

        Args:
            spec: `module:function`. Its example inputs are those of `from_module`.
        """

        def make() -> ExportedProgram:
            returned = user_code.call_function(spec, "model", RETURNS, lambda function: function())
            if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], nn.Module)):  # noqa: PLR2004
                raise InputError(f"{spec} returned a {type(returned).__name__}. Expected a function that {RETURNS}.")
            return _trace_on_two_samples(*returned, spec)

        return cls(Path(spec), functools.cache(make))

    @classmethod
    def from_module(cls, module: nn.Module, example: Any) -> "TorchProgram":
        """A program traced from a module.

        Args:
            module: The module.
            example: Its inputs: a tensor, a tuple of tensors, or a dictionary of them by argument name.
        """
        name = type(module).__name__
        return cls(Path(name), functools.cache(lambda: _trace_on_two_samples(module, example, name)))

    def open(self) -> TracedGraph:
        """Reads or traces the program.

        Raises:
            InputError: The program cannot be read or traced.
        """
        return FxGraph(self.path, self.make())

    def files(self, graph: TracedGraph | None) -> Mapping[str, Path]:  # noqa: ARG002 - as the protocol has it
        """Lists the file; a module has none. See `Frontend.files`."""
        return {"": self.path} if self.path.is_file() else {}

    def facts(self, graph: TracedGraph) -> FileFacts:
        """Returns name, size and digest of the file; where there is none, size and digest of the module's tensors."""
        if files := self.files(graph):
            return describe_files(files, self.path)
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

    def find_written(self, path: Path) -> "TorchProgram":
        """See `Frontend.find_written`."""
        return TorchProgram.from_file(path)

    def expect_onnx(self, graph: TracedGraph) -> None:
        """See `Frontend.expect_onnx`."""
        EmitOnnx.requires(expect_fx_graph(graph).program, str(self.path))

    def write_onnx(self, graph: TracedGraph, folder: Path, name: str = ONNX_MODEL) -> Path:
        """See `Frontend.write_onnx`."""
        path = folder / name
        EmitOnnx().call(program=expect_fx_graph(graph).program, file=path)
        return path


def _trace_on_two_samples(module: nn.Module, example: Any, name: str) -> ExportedProgram:
    """Traces a module on at least two samples, because a batch size of one would become part of the program."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = {key: _double(value) for key, value in example.items() if key != LABELS}
    else:
        args = tuple(_double(value) for value in (example if isinstance(example, (tuple, list)) else (example,)))
    program = trace(module, args, kwargs, name)
    _expect_readable(program, name)
    return program


def _expect_readable(program: ExportedProgram, name: str) -> None:
    """Expects outputs in containers with which a program is read again, before any work is done for it.

    Raises:
        InputError: There are others, such as dataclasses.
    """
    try:
        text = pytree.treespec_dumps(program.call_spec.out_spec)
    except (
        NotImplementedError
    ) as error:  # torch itself cannot write a kind of container that was registered without a name
        raise InputError(f"{name} returns what cannot be written: {first_line(error)}") from error
    if not is_container(text):
        kinds = [kind for kind in KIND.findall(text) if not kind.startswith("builtins.")]
        raise InputError(
            f"{name} returns {', '.join(dict.fromkeys(kinds))}. Expected tensors, or nested tuples, lists and "
            "dictionaries of them: nothing else can be read safely from the file that is written."
        )


def _double(value: Any) -> Any:
    """Makes an input a tensor, and repeats it where its batch holds one sample."""
    if not isinstance(value, Tensor) and hasattr(value, "__array__"):
        value = as_tensor(np.asarray(value))
        value = value.float() if value.dtype == torch.float64 else value  # NumPy's own default, not the model's
    single = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 1
    return torch.cat([value, value]) if single else value


def _read_program(path: Path) -> ExportedProgram:
    """Reads a `.pt2` file; see `program_archive` for why nothing in it can run code.

    Raises:
        InputError: The file is missing, unreadable, or holds what is not known to be harmless.
    """
    expect_file(path, "model", "the path of a .pt2 file")
    stay_offline()
    try:
        for module in expect_harmless(path):
            importlib.import_module(module)
        with _silence_torch(), _unpickle_only_tensors():
            program = load_pt2(str(path)).exported_programs["model"]
            return make_functional(program)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is no exported program: {first_line(error)}. Expected a file written by torch.export.save."
        ) from error


@contextmanager
def _silence_torch() -> Iterator[None]:
    """Keeps what torch logs and warns of while it reads a file to itself: what is wrong is said in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _unpickle_only_tensors() -> Iterator[None]:
    """Lets nothing but tensors be unpickled while the block runs, whatever torch's reader asks for."""
    load, loads = torch.load, pickle.loads

    def load_tensors(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **options | {"weights_only": True})

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise InputError("the program holds a pickled object, which can run any code when it is read.")

    torch.load, pickle.loads = load_tensors, refuse
    try:
        yield
    finally:
        torch.load, pickle.loads = load, loads
