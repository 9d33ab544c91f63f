"""What ONNX Runtime is given of a model: the whole of it, or some of its nodes with solved weights."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import onnx

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import external_data, float32_copy, runtime
from prox24_export.passes.front_onnx.fed_session import open_fed_session
from prox24_export.passes.front_onnx.inputs import declare_input
from prox24_export.passes.front_onnx.mapped_tensors import MappedFiles, find_mappable, map_tensor
from prox24_export.passes.front_onnx.tensors import find_node_tensors, is_external
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Node

Owner = TypeVar("Owner", onnx.NodeProto, onnx.FunctionProto)


class Executable:
    """A model in the form in which it is run here. The model itself is never changed.

    Where a model has much external data, its large tensors are fed at every call out of their files, so that no session
    holds them. That goes for the whole model and for parts of it alike: both round their sums in the same order.

    Attributes:
        path: The file of the model.
        mappable: The tensors that can stay in their files, by name.
    """

    def __init__(self, proto: onnx.ModelProto, path: Path) -> None:
        """Opens nothing yet.

        Args:
            proto: The model; its external data are on disk.
            path: Its file.

        Raises:
            InputError: A tensor has a shape that no tensor can have.
        """
        self._source, self.path = proto, path
        self.mappable = find_mappable(proto, path)
        self._is_fed = bool(self.mappable)

    def replace(self, proto: onnx.ModelProto) -> "Executable":
        """Makes one for another model over the same external data, which is run in the same way."""
        other = Executable(proto, self.path)
        other.types_without_kernel = self.types_without_kernel
        other._is_fed = self._is_fed
        return other

    @cached_property
    def types_without_kernel(self) -> tuple[str, ...]:
        """The types for which a float32 copy is run in place of the model; empty where the model itself is run.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        if self._is_fed:
            try:
                return runtime.find_types_without_kernel(self._source, self.path, lambda: self._open(self._source))
            except InputError:  # an operator may want a weight to be a constant
                self._is_fed = False
        return runtime.find_types_without_kernel(self._source, self.path, lambda: self._open(self._source))

    @cached_property
    def mapped(self) -> Mapping[str, onnx.TensorProto]:
        """The tensors that are fed at every call, by name.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        _ = self.types_without_kernel  # which finds out whether ONNX Runtime takes them
        return self.mappable if self._is_fed else {}

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """What is run: the model itself, or a float32 copy of it, in which tensors that are fed keep their type.

        Raises:
            InputError: External data cannot be read, or ONNX Runtime cannot load the model.
        """
        if not self.types_without_kernel:
            return self._source
        return float32_copy.convert_to_float32(self._source, self.path, leave=self.mapped.keys())

    def open_whole(self) -> runtime.Session:
        """Opens a session for the whole model.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        copy = ", nor a float32 copy of it" if self.types_without_kernel else ""
        try:
            return self._open(self.proto, widens=bool(self.types_without_kernel))
        except Exception as error:
            said = runtime.shorten_message(error)
            raise InputError(f"ONNX Runtime cannot load {self.path}{copy}: {said}.") from error

    def open_part(
        self,
        nodes: Sequence[Node],
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        weights: Mapping[str, Array],
        *,
        gpu: int | None = None,
    ) -> runtime.Session:
        """Opens a session for some nodes.

        Args:
            nodes: The nodes, in topological order.
            feeds: What they are given beside stored tensors, by name.
            fetches: Names of the values to return.
            weights: Weights by name that replace stored ones, in the stored shape and dtype.
            gpu: The GPU on which ONNX Runtime may run, where its CUDA provider is installed; None for none.

        Raises:
            InputError: External data cannot be read, or a value between two stages is no tensor.
        """
        read = {name for node in nodes for name in node.inputs}
        fed = {
            name: weights[name] if name in weights else map_tensor(self.mapped[name], self.path)
            for name in sorted(read & self._places.keys())
            if name in self.mapped
        }
        inputs = [declare_input(name, value) for name, value in feeds.items()]
        model = self.make_part(nodes, inputs, fetches, weights, left_out=fed)
        if fed:
            return open_fed_session(model, fed, widens=bool(self.types_without_kernel), check=self._files.expect_whole)
        return runtime.open_session(model.SerializeToString(), has_float16=runtime.has_float16(model), gpu=gpu)

    def make_part(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[onnx.ValueInfoProto],
        fetches: Sequence[str],
        weights: Mapping[str, Array],
        *,
        left_out: Collection[str] = (),
    ) -> onnx.ModelProto:
        """Makes a model of some nodes, with the tensors that they read.

        Args:
            nodes: The nodes, in topological order.
            inputs: What they are given beside stored tensors.
            fetches: Names of the values to return.
            weights: As for `open_part`.
            left_out: Names of stored tensors that are left out.

        Raises:
            InputError: External data cannot be read.
        """
        read = {name for node in nodes for name in node.inputs}
        part = onnx.GraphProto(name="segment")
        part.node.extend(self._replace_node(node, weights) for node in nodes)
        stored = sorted(read & self._places.keys())
        part.initializer.extend(self._replace_initializer(name, weights) for name in stored if name not in left_out)
        part.sparse_initializer.extend(
            self._load_parts(sparse) for sparse in self.proto.graph.sparse_initializer if sparse.values.name in read
        )
        part.input.extend(inputs)
        part.output.extend(onnx.ValueInfoProto(name=name) for name in fetches)
        return onnx.ModelProto(
            ir_version=self.proto.ir_version,
            opset_import=self.proto.opset_import,
            functions=self._functions,
            graph=part,
        )

    def _open(self, proto: onnx.ModelProto, *, widens: bool = False) -> runtime.Session:
        """Opens a session for the model as it came, or for its float32 copy."""
        if self._is_fed:
            fed = {name: map_tensor(tensor, self.path) for name, tensor in self.mappable.items()}
            rest = self._leave_out(proto, fed.keys())
            return open_fed_session(rest, fed, widens=widens, check=self._files.expect_whole)
        left = runtime.has_float16(proto)
        return runtime.open_session(self.path if proto is self._source else proto.SerializeToString(), has_float16=left)

    def _leave_out(self, proto: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
        """Makes a copy without some initializers. What is external beside them is loaded into it."""
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for entries in (
            copy.graph.initializer,
            copy.graph.input,
        ):  # before version 4 of the format, initializers are inputs
            for place in reversed(range(len(entries))):
                if entries[place].name in names:
                    del entries[place]
        external_data.load_tensors(copy, self.path)
        return copy

    @cached_property
    def _files(self) -> MappedFiles:
        return MappedFiles.of(self.mappable.values(), self.path)

    @cached_property
    def _functions(self) -> list[onnx.FunctionProto]:
        return [self._load(function, function.node) for function in self.proto.functions]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {tensor.name: index for index, tensor in enumerate(self.proto.graph.initializer)}

    def _replace_node(self, node: Node, weights: Mapping[str, Array]) -> onnx.NodeProto:
        proto: onnx.NodeProto = self.proto.graph.node[node.index]
        if node.op != "Constant" or node.outputs[0] not in weights:
            return self._load(proto, [proto])
        changed = onnx.NodeProto()
        changed.CopyFrom(proto)
        for attribute in changed.attribute:
            if attribute.name == "value":
                attribute.t.CopyFrom(self._as_tensor(node.outputs[0], weights[node.outputs[0]]))
        return changed

    def _replace_initializer(self, name: str, weights: Mapping[str, Array]) -> onnx.TensorProto:
        if name in weights:
            return self._as_tensor(name, weights[name])
        tensor: onnx.TensorProto = self.proto.graph.initializer[self._places[name]]
        if not is_external(tensor):
            return tensor
        loaded = onnx.TensorProto()
        loaded.CopyFrom(tensor)
        external_data.load_tensor(loaded, self.path)
        return loaded

    def _load(self, owner: Owner, nodes: Sequence[onnx.NodeProto]) -> Owner:
        """`owner` as it is, or a copy of it with the external data that its nodes' attributes name."""
        if not any(is_external(tensor) for node in nodes for _, tensor in find_node_tensors(node)):
            return owner
        copy = type(owner)()
        copy.CopyFrom(owner)
        for node in [copy] if isinstance(copy, onnx.NodeProto) else copy.node:
            for _, tensor in find_node_tensors(node):
                if is_external(tensor):
                    external_data.load_tensor(tensor, self.path)
        return copy

    def _load_parts(self, sparse: onnx.SparseTensorProto) -> onnx.SparseTensorProto:
        copy = onnx.SparseTensorProto()
        copy.CopyFrom(sparse)
        for tensor in (copy.values, copy.indices):
            if is_external(tensor):
                external_data.load_tensor(tensor, self.path)
        return copy

    def _as_tensor(self, name: str, array: Array) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(float32_copy.widen(array) if self.types_without_kernel else array, name)
