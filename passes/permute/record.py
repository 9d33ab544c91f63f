"""Writes down the ATen operators that a function runs, with all shapes known, as a graph."""

from collections.abc import Callable, Mapping, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode  # documented, in spite of its name
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary


class OperatorRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """While it is entered, every operator becomes a node of `graph`, whose `meta["val"]` has the result's shape.

    It does what `torch.fx.experimental.proxy_tensor.make_fx` does without importing torch's compiler, which takes a
    second.

    Attributes:
        graph: The calls so far.
        constants: Tensors that no recorded operator made, by the name of the node that stands for each.
    """

    def __init__(self, decompositions: Mapping[Any, Callable[..., Any]]) -> None:
        """Takes operators apart by these functions.

        Args:
            decompositions: Functions by operator, which compute the same by other operators.
        """
        super().__init__()  # type: ignore[no-untyped-call] # torch's
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self._decompositions = decompositions
        self._nodes = WeakTensorKeyDictionary()  # by identity, as long as a tensor lives: activations are not kept
        self._given: set[fx.Node] = set()  # nodes that depend on what is given

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leaves out what torch wraps around modes for its compiler, whose import takes a second."""
        return False

    def take(self, name: str, tensor: Tensor) -> str:
        """Makes a tensor an input of the graph, and returns the name of its node."""
        node = self.graph.placeholder(name)
        self._given.add(node)
        self._note(tensor, node)
        return node.name

    def give(self, results: Sequence[Any]) -> None:
        """Makes results the outputs of the graph."""
        self.graph.output(tuple(self._find(result) if isinstance(result, Tensor) else result for result in results))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operator, and records it or what it is taken apart into.

        Raises:
            RuntimeError: A Python number is read from a tensor that depends on what is given.
        """
        kwargs = kwargs or {}
        for take_apart in (self._decompositions.get(func), func.decompose):
            if take_apart is not None:
                with self:
                    result = take_apart(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        if func is torch.ops.aten._local_scalar_dense.default:  # noqa: SLF001 - the operator's name
            if self._find(args[0]) in self._given:
                raise RuntimeError("a size or a branch depends on the data")
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        places, named = tree_map_only(Tensor, self._find, (args, kwargs))
        node = self.graph.create_node("call_function", func, places, named, name=func.overloadpacket.__name__)
        if any(source in self._given for source in node.all_input_nodes):
            self._given.add(node)
        self._note_results(result, node)
        return result

    def _note_results(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self._note(result, node)
        elif isinstance(result, (tuple, list)):
            for place, part in enumerate(result):
                if isinstance(part, Tensor):
                    picked = self.graph.call_function(getitem, (node, place))
                    self._given |= {picked} if node in self._given else set()
                    self._note(part, picked)
            node.meta["val"] = tree_map_only(Tensor, _outline, tuple(result))

    def _note(self, tensor: Tensor, node: fx.Node) -> None:
        node.meta["val"] = _outline(tensor)
        self._nodes[tensor] = node

    def _find(self, tensor: Tensor) -> fx.Node:
        node: fx.Node | None = self._nodes.get(tensor)  # type: ignore[no-untyped-call] # torch's
        if node is None:
            node = self.graph.create_node("get_attr", f"constant_{len(self.constants)}")
            self.constants[node.name] = tensor
            self._note(tensor, node)
        return node


def _outline(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and type without values."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
