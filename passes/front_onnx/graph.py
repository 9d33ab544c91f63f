"""An ONNX file as a `TracedGraph`: onnx_ir reads it, and ONNX Runtime runs it."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from jaxtyping import Float
from torch import Tensor

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import expand_model, external_data, linear_operators, runtime
from prox24_export.passes.front_onnx.constant_shapes import infer_constant_types
from prox24_export.passes.front_onnx.constants import (
    COMPUTED,
    LAYOUT_ONLY,
    count_parameters,
    find_stored_tensor,
    mark_sparse,
)
from prox24_export.passes.front_onnx.dependencies import find_read_values, is_random, mark_computed, sort_nodes
from prox24_export.passes.front_onnx.executable import Executable
from prox24_export.passes.front_onnx.fold_weights import fold_weights, note_folded
from prox24_export.passes.front_onnx.inputs import describe_input
from prox24_export.passes.front_onnx.mapped_tensors import map_tensor
from prox24_export.passes.front_onnx.read_model import blame_invalid_model, make_refusal, read_model
from prox24_export.passes.front_onnx.tensors import find_model_tensors, is_external
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Candidate, Feeds, Input, Linear, Node, Skipped


class OnnxGraph:
    """An ONNX model as the passes see it. It is never changed.

    Attributes:
        path: The file that it was read from.
        proto: The content of the file, where weights that it computes from constants are stored as far as that is safe.
            External data is left on disk.
        external_names: The names that the file has for the files of its external data, each once.
        folded: The operators that compute the weights which are stored in `proto` and not in the file, by their names.
    """

    def __init__(self, path: Path, proto: onnx.ModelProto | None = None) -> None:
        """Reads the file. Nothing is run yet.

        Args:
            path: The file.
            proto: What to take in place of its content; external data are those of the file.

        Raises:
            InputError: The file is missing or is not an ONNX model.
        """
        self.path = path
        self.proto = read_model(path) if proto is None else proto
        external = [tensor for _, tensor in find_model_tensors(self.proto) if is_external(tensor)]
        self.external_names = tuple(dict.fromkeys(map(external_data.read_location, external)))
        self._model = self._open()
        self.folded: Mapping[str, str] = {}
        if proto is None:  # a copy that is only looked at is made of folded weights already
            with suppress(Exception):  # a model that cannot be run is refused where it is run, with the reason
                self.folded = fold_weights(self.proto, self._model, path)
        if self.folded:
            self._model = self._open()
        self._names = linear_operators.name_nodes(self._model)

    def _open(self) -> ir.Model:
        try:
            model = external_data.open_model(self.proto, self.path)
            mark_sparse(model, [tensor.values.name for tensor in self.proto.graph.sparse_initializer])
            mark_computed(model)
        except InputError:
            raise
        except Exception as error:
            raise make_refusal(self.path, error) from error
        return model

    @property
    def external_files(self) -> tuple[Path, ...]:
        """The files beside the model that hold its external data, each once."""
        return tuple(dict.fromkeys(self.path.parent / name for name in self.external_names))

    @property
    def runs_in_float32(self) -> tuple[str, ...]:
        """The types for which a float32 copy is run in place of the file; empty where the file itself is run.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        return self.executable.types_without_kernel

    @cached_property
    def executable(self) -> Executable:
        """What ONNX Runtime is given of the model."""
        return Executable(self.proto, self.path)

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs that the user feeds: graph inputs that are not initializers."""
        graph = self.executable.proto.graph
        stored = {tensor.name for tensor in graph.initializer}
        return tuple(describe_input(value) for value in graph.input if value.name not in stored)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return tuple(value.name for value in self.proto.graph.output)

    @cached_property
    def gathered_rows(self) -> dict[str, int]:
        """By name of the input, the number of rows of the smallest table that a Gather indexes with it.

        Between the input and the Gather there may be a Cast, and operators that change only the shape.
        """
        rows: dict[str, int] = {}
        for value in self._model.graph.inputs:
            pending = [value]
            while pending:
                for node, index in pending.pop().uses():
                    if node.op_type == "Gather" and index == 1:
                        size = _count_rows(node)
                        if size is not None:
                            name = str(value.name)
                            rows[name] = min(size, rows.get(name, size))
                    elif node.op_type in LAYOUT_ONLY and index == 0:
                        pending.append(node.outputs[0])
        return rows

    @cached_property
    def constants(self) -> frozenset[str]:
        """Names of all values that depend on no input: initializers, and what is computed from them alone."""
        known = {tensor.name for tensor in self.proto.graph.initializer}
        known |= {tensor.values.name for tensor in self.proto.graph.sparse_initializer}
        computed = (value for node in self._model.graph for value in node.outputs if COMPUTED in value.meta)
        return frozenset(known | {str(value.name) for value in computed if value.name})

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes that depend on an input, in topological order."""
        return tuple(node for node in self._all_nodes if not self.constants.issuperset(node.outputs))

    @cached_property
    def parameters(self) -> int:
        """Number of entries of all tensors of the main graph that are stored as floats, or as integers of floats."""
        return sum(map(count_parameters, self._constant_values))

    def operators(self) -> list[Candidate | Skipped]:
        """Recognises every linear-like node, in topological order."""
        with blame_invalid_model(self.proto, self.path):
            found = linear_operators.find_operators(self._model, self._names, lambda: self._constant_shapes)
        return note_folded(found, self.folded)

    def expand(self, feeds: Feeds) -> "OnnxGraph":
        """Makes a graph with the nodes of functions, and of the branches that run, in its main graph.

        Nodes of this graph keep their names; see `TracedGraph.expand`.
        """
        names = {expand_model.identify(self.proto.graph.node[node.index]): node.name for node in self._all_nodes}
        expanded = self._replace(expand_model.inline_functions(self.proto), names)
        while conditions := expand_model.list_conditions(expanded.proto):
            values = expanded.evaluate(conditions, feeds)
            taken = {name: bool(np.ravel(value)[0]) for name, value in values.items()}
            expanded = self._replace(expand_model.inline_branches(expanded.proto, taken), names)
        return expanded

    def evaluate(self, names: Sequence[str], feeds: Feeds) -> dict[str, Array]:
        """Computes values of the main graph for one batch, and nothing that they do not depend on.

        Args:
            names: Names of the values.
            feeds: The batch by input name.
        """
        known = {
            name: feeds[name] if name in feeds else self.stored(name) for name in names if name not in self._producer
        }
        wanted = [name for name in names if name in self._producer]
        if not wanted:
            return known
        nodes = self._with_producers([self._producer[name] for name in wanted], None)
        return known | self.compile(nodes, feeds, wanted, {})(feeds)

    def _replace(self, proto: onnx.ModelProto, names: Mapping[expand_model.NodeKey, str]) -> "OnnxGraph":
        expand_model.name_nodes_anew(proto, names)
        graph = OnnxGraph(self.path, proto)
        graph.executable = self.executable.replace(proto)
        return graph

    def weight(self, linear: Linear) -> Float[Tensor, "N K"]:
        """Reads the weight of a layer as a float32 matrix [N, K]; see `TracedGraph.weight`."""
        return linear.to_matrix(self.stored(linear.weight))

    def stored(self, name: str) -> Array:
        """Reads a stored tensor by its name, in its own dtype and shape.

        Raises:
            KeyError: No tensor of this name is stored.
        """
        if name in self.executable.mappable:
            return map_tensor(self.executable.mappable[name], self.path)
        tensor = find_stored_tensor(self._values[name])
        if tensor is None:
            raise KeyError(name)
        return tensor.numpy()

    def session(self) -> runtime.Session:
        """Opens a session of ONNX Runtime for the whole model.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        return self.executable.open_whole()

    predicts_next_token = False

    def runner(self) -> Callable[[Feeds], Sequence[Array]]:
        """A function that runs the whole model: it takes feeds and returns outputs, in the order of `outputs`.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        session = self.session()

        def run(feeds: Feeds) -> Sequence[Array]:
            results: Sequence[Array] = session.run(None, dict(feeds))
            return results

        return run

    def compile(
        self,
        nodes: Sequence[Node],
        sample: Feeds,
        fetches: Sequence[str],
        weights: Mapping[str, Array],
        *,
        gpu: int | None = None,
    ) -> Callable[[Feeds], dict[str, Array]]:
        """Makes a function that runs `nodes`; see `TracedGraph.compile`, and for `gpu` `Executable.open_part`."""
        wanted = self.with_constants(nodes)
        read = {name for node in wanted for name in node.inputs}
        names = [name for name in sample if name in read]
        session = self.executable.open_part(wanted, {name: sample[name] for name in names}, fetches, weights, gpu=gpu)

        def run(values: Feeds) -> dict[str, Array]:
            results = session.run(list(fetches), {name: values[name] for name in names})
            return dict(zip(fetches, results, strict=True))

        return run

    @cached_property
    def _all_nodes(self) -> tuple[Node, ...]:
        return sort_nodes(
            [
                Node(
                    index=index,
                    name=self._names[node],
                    op=node.op_type,
                    inputs=tuple(dict.fromkeys(find_read_values(node, self._model.graph))),
                    outputs=tuple(str(value.name) for value in node.outputs if value.name),
                    is_random=is_random(node, self._model),
                )
                for index, node in enumerate(self._model.graph)
            ],
            str(self.path),
        )

    @cached_property
    def _constant_values(self) -> list[ir.Value]:
        computed = [value for node in self._model.graph if node.op_type == "Constant" for value in node.outputs]
        return [*self._model.graph.initializers.values(), *computed]

    @cached_property
    def _values(self) -> dict[str, ir.Value]:
        return {str(value.name): value for value in self._constant_values}

    @cached_property
    def _constant_shapes(self) -> dict[str, tuple[int, ...]]:
        types = infer_constant_types(self.proto, self.constants, self.path)
        return {name: found.shape for name, found in types.items()}

    @cached_property
    def _places(self) -> dict[int, int]:
        """The place of every node in topological order, by its index."""
        return {node.index: place for place, node in enumerate(self._all_nodes)}

    @cached_property
    def _producer(self) -> dict[str, Node]:
        return {name: node for node in self._all_nodes for name in node.outputs}

    def with_constants(self, nodes: Sequence[Node]) -> list[Node]:
        """`nodes` and the nodes of the constants that they read, in topological order."""
        return self._with_producers(nodes, self.constants)

    def _with_producers(self, nodes: Sequence[Node], names: AbstractSet[str] | None) -> list[Node]:
        """`nodes` and those that compute what they read: all of that for None, or as far as it is among `names`."""
        wanted = {node.index for node in nodes}
        pending = list(nodes)
        while pending:
            for name in pending.pop().inputs:
                producer = self._producer.get(name)
                if producer is not None and (names is None or name in names) and producer.index not in wanted:
                    wanted.add(producer.index)
                    pending.append(producer)
        return [self._all_nodes[place] for place in sorted(self._places[index] for index in wanted)]


def expect_onnx_graph(graph: object) -> OnnxGraph:
    """Expects a graph that this front end opened.

    Raises:
        TypeError: Another front end opened it.
    """
    if not isinstance(graph, OnnxGraph):
        raise TypeError(f"graph must be an OnnxGraph. Got {type(graph).__name__}.")
    return graph


def _count_rows(gather: ir.Node) -> int | None:
    """The size of the axis that a Gather indexes; None where it is not known."""
    table = gather.inputs[0]
    if table is None:
        return None
    tensor = find_stored_tensor(table)
    shape = table.shape if tensor is None else tensor.shape
    size = None if shape is None else shape[gather.attributes.get_int("axis", 0)]
    return size if isinstance(size, int) else None
