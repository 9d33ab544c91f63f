"""A program that `torch.export` traced, as a `TracedGraph`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, fx
from torch.export import ExportedProgram

from prox24_export.errors import InputError
from prox24_export.passes.front_torch.device_interpreter import DeviceInterpreter
from prox24_export.passes.front_torch.linear_operators import Operators, keeps_entries
from prox24_export.passes.front_torch.trace import changes_in_place, identify_memory, read_shape, replace_tensors
from prox24_export.passes.graph.arrays import Array, as_array, as_numpy_dtype, as_tensor
from prox24_export.passes.graph.experts import replace_parts, split_part_name
from prox24_export.passes.graph.lazy_tensors import LazyTensors
from prox24_export.passes.graph.on_device import TensorRunner, exact_products, move_to
from prox24_export.passes.graph.protocol import Candidate, Feeds, Input, Linear, Node, Skipped, TracedGraph


@dataclass(frozen=True)
class FxGraph:
    """The graph of an exported program, which torch runs node by node.

    Values between nodes are what torch computes: tensors, tuples of tensors, sizes.

    Attributes:
        path: File or folder that the model was read from.
        program: The program. Its parameters are placeholders of its graph.
        predicts_next_token: Whether it is a causal language model.
        read: Reads a parameter by its name in the program's state, whose own tensors then are nothing but shapes. None
            where the state holds the values.
        runs_in_float32: Always empty, because torch has kernels for every type.
    """

    path: Path
    program: ExportedProgram
    predicts_next_token: bool = False
    read: Callable[[str], Tensor] | None = None
    runs_in_float32: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses programs that change tensors in place, because streams share tensors and stages reorder calls.

        Raises:
            InputError: A node changes a tensor in place.
        """
        for node in self._calls:
            if changes_in_place(node):
                raise InputError(
                    f"{self.path}: node {node.name} ({node.target}) changes a tensor in place. Expected a functional "
                    "program: trace it with torch.export and run_decompositions({})."
                )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The calls of the graph that compute no constants, in topological order."""
        labels = {
            node: found[0].use.node if isinstance(found[0], Candidate) else found[0].name
            for node, found in self._found.items()
            if len(found) == 1 or isinstance(found[0], Candidate)
        }
        return tuple(
            Node(
                index,
                labels.get(node, node.name),
                str(node.target),
                tuple(operand.name for operand in node.all_input_nodes),
                (node.name,),
                _is_random(node),
            )
            for index, node in enumerate(self._calls)
            if node not in self._folded
        )

    @cached_property
    def constants(self) -> frozenset[str]:
        """Names of parameters, buffers, lifted constants, nested graphs, and of what is computed from them alone."""
        return frozenset(self._constants) | {node.name for node in self._folded}

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """The tensors that the user feeds. Other arguments were fixed when the program was traced."""
        names = self.program.graph_signature.user_inputs
        values = {node.name: node.meta.get("val") for node in self.program.graph.nodes if node.op == "placeholder"}
        return tuple(
            Input(
                name,
                as_numpy_dtype(str(value.dtype).removeprefix("torch.")),
                read_shape(value),
            )
            for name in names
            if isinstance(name, str) and isinstance(value := values.get(name), Tensor)
        )

    @cached_property
    def gathered_rows(self) -> dict[str, int]:
        """Number of rows of the smallest embedding table that an integer input indexes, by name of the input."""
        fed = {entry.name for entry in self.inputs}
        rows: dict[str, int] = {}
        for node in self._calls:
            if node.target is torch.ops.aten.embedding.default:
                table, index = node.all_input_nodes[:2]
                while index.op == "call_function" and isinstance(index.args[0], fx.Node) and keeps_entries(index):
                    index = index.args[0]
                if index.name in fed and table.name in self._tensors:
                    rows[index.name] = min(self._tensors[table.name].shape[0], rows.get(index.name, 1 << 62))
        return rows

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return tuple(name for name in self.program.graph_signature.user_outputs if isinstance(name, str))

    @cached_property
    def parameters(self) -> int:
        """Number of entries of all parameters, with tied ones counted once."""
        names = self.program.graph_signature.inputs_to_parameters
        return sum(self._tensors[place].numel() for place in {self._names[name]: name for name in names}.values())

    def operators(self) -> list[Candidate | Skipped]:
        """Recognises every linear-like node, in topological order."""
        return [layer for layers in self._found.values() for layer in layers]

    def expand(self, feeds: Feeds) -> "FxGraph":  # noqa: ARG002 - as the protocol has it
        """Returns itself: a traced program calls no functions of its own."""
        return self

    def weight(self, linear: Linear) -> Float[Tensor, "N K"]:
        """Reads the weight of a layer as a float32 matrix [N, K] (float64 where it is stored as float64)."""
        return linear.to_matrix(self.stored(linear.weight))

    def stored(self, name: str) -> Array:
        """Reads a stored tensor, or one expert's matrix of it, by its name, in its own dtype and shape.

        Raises:
            KeyError: No tensor of this name is stored.
        """
        if name in self._buffers:
            return as_array(self._read(self._buffers[name]))
        weight, index = split_part_name(name, self._places)
        tensor = self._stored[weight]
        return as_array(tensor if index is None else tensor[index])

    def whole_program(self) -> ExportedProgram:
        """The program with all its weights in memory."""
        if self.read is None:
            return self.program
        return replace_tensors(
            self.program, {name: self.read(name) for name, tensor in self.program.state_dict.items() if tensor.numel()}
        )

    def compile(
        self, nodes: Sequence[Node], sample: Mapping[str, Any], fetches: Sequence[str], weights: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Makes a function that runs `nodes`; see `TracedGraph.compile`. The types of `sample` are not needed here."""
        del sample  # torch needs no types in advance
        return self.compile_on(None, nodes, fetches, weights)

    def compile_on(
        self, device: torch.device | None, nodes: Sequence[Node], fetches: Sequence[str], weights: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Makes a function that runs `nodes` on a device, where its results stay; None is the CPU."""
        folded = [node for node in self._folded if node.name in fetches]
        calls = self._with_folded([*(self._calls[node.index] for node in nodes), *folded])
        return self._compiled(calls, fetches, weights, resident=True, device=device)

    def _compiled(
        self,
        calls: Sequence[fx.Node],
        fetches: Sequence[str],
        weights: Mapping[str, Array],
        *,
        resident: bool,
        device: torch.device | None = None,
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Makes a function that runs calls in order.

        Where `resident` is set, their parameters are held between runs; else they are read again for each run.
        """
        places = {call: place for place, call in enumerate(self._calls)}
        read = {operand.name for call in calls for operand in call.all_input_nodes} & self._constants.keys()
        held = {place: move_to(self._constant(place, weights), device) for place in read} if resident else {}
        drawing = [device] if device is not None and any(map(_is_random, calls)) else []
        wanted, last = set(fetches), _find_last_readers(calls)

        def run(values: Mapping[str, Any]) -> dict[str, Any]:
            interpreter = DeviceInterpreter(self.program.graph_module, device)
            env = interpreter.env
            known = held | _convert_arrays(values, device)
            results = {name: known[name] for name in wanted if name in known}
            exact = nullcontext() if device is None else exact_products()
            with torch.no_grad(), torch.random.fork_rng(devices=drawing), exact:
                for index, call in enumerate(calls):
                    if _is_random(call):
                        torch.manual_seed(places[call])  # the same draw in both streams, and in every run
                    for operand in call.all_input_nodes:
                        if operand not in env:
                            name = operand.name
                            env[operand] = (
                                known[name] if name in known else move_to(self._constant(name, weights), device)
                            )
                    env[call] = interpreter.run_node(call)
                    if call.name in wanted:
                        results[call.name] = env[call]
                    for done in last.get(index, ()):
                        del env[done]
            return results

        return run

    def runner(self) -> Callable[[Feeds], Sequence[Array]]:
        """A function that runs the whole model: it takes feeds and returns outputs, in the order of `outputs`."""
        return self.runner_on(None)

    def runner_on(self, device: torch.device | None) -> TensorRunner:
        """The same on a device; None is the CPU."""
        calls = self._with_folded(
            [call for call in self._calls if call not in self._folded or call.name in self.outputs]
        )
        whole = self._compiled(calls, self.outputs, {}, resident=self.read is None, device=device)

        def run(feeds: Feeds) -> Sequence[Tensor]:
            results = whole(feeds)
            tensors = [torch.as_tensor(results[name]) for name in self.outputs]
            return [tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in tensors]

        return TensorRunner(run)

    @cached_property
    def _calls(self) -> list[fx.Node]:
        return [node for node in self.program.graph.nodes if node.op == "call_function"]

    @cached_property
    def _folded(self) -> frozenset[fx.Node]:
        """Calls that depend on no input. They run wherever they are read, with the weights of that run."""
        folded: set[fx.Node] = set()
        for node in self._calls:
            if not _is_random(node) and all(
                operand.name in self._constants or operand in folded for operand in node.all_input_nodes
            ):
                folded.add(node)
        return frozenset(folded)

    def _with_folded(self, calls: Sequence[fx.Node]) -> list[fx.Node]:
        wanted, pending = set(calls), list(calls)
        while pending:
            for operand in pending.pop().all_input_nodes:
                if operand in self._folded and operand not in wanted:
                    wanted.add(operand)
                    pending.append(operand)
        return [node for node in self._calls if node in wanted]

    @cached_property
    def _found(self) -> dict[fx.Node, list[Candidate | Skipped]]:
        own_names = self.program.graph_signature.inputs_to_parameters
        return Operators(self.program.graph, self._tensors, self._names, own_names, self._overlapping).find()

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """Parameter, buffer or lifted constant by name of its placeholder."""
        signature, state = self.program.graph_signature, self.program.state_dict
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        constants = self.program.constants
        tensors = {place: state[name] if name in state else constants[name] for place, name in stored.items()}
        return tensors | {place: constants[name] for place, name in lifted.items()}

    @cached_property
    def _names(self) -> dict[str, str]:
        """Name of the stored parameter by name of its placeholder. Tied ones share that of the first in the state."""
        first: dict[tuple[Any, ...], str] = {}
        state = self.program.state_dict
        for name, tensor in state.items():
            first.setdefault(identify_memory(tensor, name), name)
        places = self.program.graph_signature.inputs_to_parameters
        return {place: first[identify_memory(state[name], name)] for place, name in places.items()}

    def _constant(self, place: str, weights: Mapping[str, Array]) -> Any:
        """A parameter, buffer, constant or nested graph, by name of its placeholder; `weights` replaces stored ones."""
        name = self._names.get(place)
        if name is None:
            return self._constants[place] if self.read is None else self._read(place)
        replaced = replace_parts(weights, self._stored, as_tensor, name.__eq__)
        return replaced[name] if name in replaced else self._stored[name]

    def _read(self, place: str) -> Any:
        """A constant or buffer as it is in memory, or read where it is stored."""
        stored = self.program.graph_signature.inputs_to_buffers.get(place)
        if self.read is None or stored is None or stored not in self.program.state_dict:
            return self._constants[place]
        return self.read(stored)

    @cached_property
    def _stored(self) -> Mapping[str, Tensor]:
        """Parameters by name. They are read when they are asked for, and shared while somebody holds them."""
        if self.read is None:
            return {name: self._tensors[place] for name, place in self._places.items()}
        return LazyTensors(self.read, tuple(self._places))

    @cached_property
    def _places(self) -> dict[str, str]:
        """Name of a placeholder by name of the stored parameter."""
        return {name: place for place, name in reversed(self._names.items())}

    @cached_property
    def _buffers(self) -> dict[str, str]:
        """Name of a placeholder by name of the stored buffer, such as the statistics of a normalisation."""
        found = self.program.graph_signature.inputs_to_buffers
        return {name: place for place, name in found.items() if name in self.program.state_dict}

    @cached_property
    def _overlapping(self) -> frozenset[str]:
        """Parameters that share memory with one of another shape, order or place, so that none can change alone."""
        seen: dict[int, set[tuple[Any, ...]]] = {}
        state = self.program.state_dict
        for name, tensor in state.items():
            seen.setdefault(tensor.untyped_storage().data_ptr(), set()).add(identify_memory(tensor, name))
        return frozenset(
            name
            for name, tensor in state.items()
            if tensor.numel() and len(seen[tensor.untyped_storage().data_ptr()]) > 1
        )

    @cached_property
    def _constants(self) -> dict[str, Any]:
        nested = {node.name: node.target for node in self.program.graph.nodes if node.op == "get_attr"}
        modules = {name: _get_attribute(self.program.graph_module, str(target)) for name, target in nested.items()}
        return {**self._tensors, **modules}


def expect_fx_graph(graph: TracedGraph) -> FxGraph:
    """Expects a graph that a torch front end opened.

    Raises:
        TypeError: Another front end opened it.
    """
    if not isinstance(graph, FxGraph):
        raise TypeError(f"graph must be an FxGraph. Got {type(graph).__name__}.")
    return graph


def _is_random(node: fx.Node) -> bool:
    """Whether a call draws random numbers. Dropout that is off, of a layer or within attention, draws none."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema: Any = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - an operator: it has tags
    given = {argument.name: argument.default_value for argument in schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    return not any(name in given and not given[name] for name in ("train", "training", "dropout_p"))


def _convert_arrays(values: Mapping[str, Any], device: torch.device | None) -> dict[str, Any]:
    if device is not None:
        return {name: move_to(value, device) for name, value in values.items()}
    return {name: as_tensor(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _get_attribute(module: torch.nn.Module, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _find_last_readers(calls: Sequence[fx.Node]) -> dict[int, list[fx.Node]]:
    """Finds the values that no later call reads, by place of their last reader in `calls`."""
    last: dict[fx.Node, int] = {}
    for index, call in enumerate(calls):
        last.update(dict.fromkeys(call.all_input_nodes, index))
    done: dict[int, list[fx.Node]] = {}
    for node, index in last.items():
        done.setdefault(index, []).append(node)
    return done
