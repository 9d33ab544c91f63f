"""Runs stages of an ONNX model as torch functions on a GPU; where there is no such function, in ONNX Runtime."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import inliner
from torch import Tensor

from prox24_export.errors import first_line
from prox24_export.facts.out_of_memory import is_out_of_memory
from prox24_export.passes.front_onnx.external_data import open_model
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array, as_array, as_numpy_dtype, as_tensor
from prox24_export.passes.graph.on_device import StageCall, TensorRunner, fall_back, move_to, run_on_host
from prox24_export.passes.graph.protocol import Feeds, Node
from prox24_export.passes.onnx_to_fx.check import (
    TOLERANCE,
    TOLERANCE_WIDENED,
    DivergenceError,
    NodeComparison,
    agree_on_device,
    choose_tolerance,
    expect_nodes_to_agree,
    find_difference,
)
from prox24_export.passes.onnx_to_fx.convert import Converted, ConvertToFx, convert_model
from prox24_export.passes.onnx_to_fx.device_function import DeviceFunction
from prox24_export.passes.onnx_to_fx.table import NotDifferentiableError

FAILURES = (
    NotDifferentiableError,
    DivergenceError,
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
)  # of functions of the table
StageKey = tuple[int, ...]  # the places of a stage's nodes


class OnnxOnDevice:
    """Stages of an ONNX model on a GPU; a `StageCompiler`.

    A stage runs as a torch function. What that gives for the first batch of the dense stream is compared with ONNX
    Runtime, which runs the stages with that batch, too; its values go to the device, so that nothing comes back. Where
    a value differs, each node is compared by itself; see `check_conversion`. A stage with an operator that has no torch
    function, or whose function computes something else, runs in ONNX Runtime on the host: on the GPU, too, where its
    CUDA provider is installed, but its values travel.

    Attributes:
        on_host: Why stages run in ONNX Runtime, by the places of their nodes.
    """

    def __init__(self, graph: OnnxGraph, device: torch.device) -> None:
        """Compiles nothing yet."""
        self._graph, self._device = graph, device
        self.on_host: dict[StageKey, str] = {}
        self._dtypes: dict[StageKey, Mapping[str, torch.dtype]] = {}  # of fetched values, as ONNX Runtime has them
        self._known: dict[str, Any] = {}  # what ONNX Runtime gave for the first batch, and a later stage reads

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of the main graph that compute no constants, in topological order."""
        return self._graph.nodes

    def compile(
        self, nodes: Sequence[Node], sample: Mapping[str, Any], fetches: Sequence[str], weights: Mapping[str, Array]
    ) -> StageCall:
        """Makes a function that runs some nodes; see `TracedGraph.compile`. Its values are on the device."""
        key = tuple(node.index for node in nodes)

        def compile_for_host(values: Mapping[str, Any]) -> StageCall:
            gpu = self._device.index if self._device.type == "cuda" else None
            arrays = {name: as_array(value) if isinstance(value, Tensor) else value for name, value in values.items()}
            run = self._graph.compile(nodes, arrays, fetches, weights, gpu=gpu)
            return run_on_host(run, values.keys(), self._device, arrays=True)

        read = {name for node in self._graph.with_constants(nodes) for name in node.inputs}
        taken = {name: value for name, value in sample.items() if name in read}
        if key in self.on_host:
            return compile_for_host(taken)
        if key not in self._dtypes:  # this is the first batch
            self._known = {name: value for name, value in self._known.items() if name in sample}
        try:
            call = self._compile(key, nodes, taken, fetches, weights)
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            self.on_host[key] = first_line(error)
            return compile_for_host(taken)

        names = tuple(taken)  # whose values go, when this batch is done

        def leave(values: Mapping[str, Any], error: Exception) -> StageCall:
            self.on_host[key] = first_line(error)  # of sizes that only this batch has
            return compile_for_host({name: values[name] for name in names})

        return fall_back(call, FAILURES, leave)

    def _compile(
        self,
        key: StageKey,
        nodes: Sequence[Node],
        sample: Mapping[str, Any],
        fetches: Sequence[str],
        weights: Mapping[str, Array],
    ) -> StageCall:
        """Makes a torch function; the first one of a stage is compared with ONNX Runtime on `sample`.

        Raises:
            NotDifferentiableError: There is none.
            DivergenceError: It computes something else.
        """
        converted = self._convert(nodes, sample, fetches, weights)
        function = DeviceFunction(converted.module, self._device)
        if key not in self._dtypes:
            self._dtypes[key] = self._check(converted, function, nodes, sample, fetches)
        dtypes, names = self._dtypes[key], list(converted.inputs)

        def run(values: Mapping[str, Any]) -> dict[str, Any]:
            found = function.run([values[name] for name in names])
            return {name: value.to(dtypes[name]) for name, value in zip(fetches, found, strict=True)}

        return run

    def _convert(
        self,
        nodes: Sequence[Node],
        sample: Mapping[str, Any],
        fetches: Sequence[str],
        weights: Mapping[str, Array],
    ) -> Converted:
        executable = self._graph.executable
        inputs = [_declare_input(name, value) for name, value in sample.items()]
        model = executable.make_part(self._graph.with_constants(nodes), inputs, fetches, weights)
        if model.graph.sparse_initializer:
            raise NotDifferentiableError("SparseTensor", model.graph.sparse_initializer[0].values.name)
        if model.functions:
            model = inliner.inline_local_functions(model)
        return convert_model(open_model(model, self._graph.path), widen=True)

    def _check(
        self,
        converted: Converted,
        function: DeviceFunction,
        nodes: Sequence[Node],
        sample: Mapping[str, Any],
        fetches: Sequence[str],
    ) -> dict[str, torch.dtype]:
        """Compares what a stage's function gives with ONNX Runtime; returns the types of its values there.

        Raises:
            DivergenceError: A value differs, and not by what roundings before it add up to.
        """
        arrays = {name: self._known[name] if name in self._known else as_array(value) for name, value in sample.items()}
        wanted = self._graph.compile(nodes, arrays, fetches, {})(arrays)
        self._known |= wanted
        found = zip(fetches, function.run([sample[name] for name in converted.inputs]), strict=True)
        if differing := _list_differing(found, wanted):
            arguments = [move_to(as_tensor(arrays[name]), self._device) for name in converted.inputs]
            NodeComparison(choose_tolerance, exact_type=False).expect_nodes(
                partial(function.run_followed, arguments),
                converted,
                nodes,
                lambda names: self._graph.compile(nodes, arrays, names, {})(arrays),
                differing,
            )
        return {name: as_tensor(np.zeros(0, theirs.dtype)).dtype for name, theirs in wanted.items()}


def make_device_runner(graph: OnnxGraph, device: torch.device, feeds: Feeds) -> TensorRunner:
    """Makes a function that runs a whole ONNX model on a device: feeds to outputs, as `TracedGraph.runner`.

    Args:
        graph: The model.
        device: The device.
        feeds: One batch, on which it is compared with ONNX Runtime.

    Raises:
        NotDifferentiableError: An operator has no torch function.
        DivergenceError: An output differs from ONNX Runtime's, and not by what roundings before it add up to.
        InputError: ONNX Runtime cannot load the model.
    """
    converted = ConvertToFx().call(graph=graph)
    function = DeviceFunction(converted.module, device)

    def run(values: Feeds) -> Sequence[Tensor]:
        return function.run([move_to(values[name], device) for name in converted.inputs])

    tolerance = TOLERANCE_WIDENED if converted.is_widened else TOLERANCE
    differing = [
        (name, find_difference(ours, theirs, tolerance, exact_type=False) or "differs")
        for name, ours, theirs in zip(graph.outputs, run(feeds), graph.runner()(feeds), strict=True)
        if not agree_on_device(ours, theirs, tolerance)
    ]
    if differing:
        arguments = [move_to(feeds[name], device) for name in converted.inputs]
        expect_nodes_to_agree(partial(function.run_followed, arguments), converted, graph, feeds, differing)
    return TensorRunner(run)


def _list_differing(found: Iterable[tuple[str, Tensor]], wanted: Mapping[str, Array]) -> list[tuple[str, str]]:
    """The values that differ from those of ONNX Runtime, with how they do."""
    pairs = [(name, ours, wanted[name], choose_tolerance(wanted[name])) for name, ours in found]
    return [
        (name, find_difference(ours, theirs, tolerance, exact_type=False) or "differs")
        for name, ours, theirs, tolerance in pairs
        if not agree_on_device(ours, theirs, tolerance)
    ]


def _declare_input(name: str, value: Any) -> onnx.ValueInfoProto:
    """Declares an input of the type of a tensor.

    Raises:
        NotDifferentiableError: The value is none, such as a sequence or a text.
    """
    if not isinstance(value, Tensor):
        raise NotDifferentiableError("input", name, f"it is a {type(value).__name__}, and no tensor")
    dtype = as_numpy_dtype(str(value.dtype).removeprefix("torch."))
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(dtype), None)
