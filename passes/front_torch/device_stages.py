"""Runs stages of a traced program on a GPU; a stage that does not run there runs on the host."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prox24_export.errors import first_line
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.on_device import StageCall, fall_back, run_on_host
from prox24_export.passes.graph.protocol import Node


class TorchOnDevice:
    """Stages of a traced program on a GPU; a `StageCompiler`.

    Attributes:
        on_host: Why stages run on the host, by the places of their nodes.
    """

    def __init__(self, graph: FxGraph, device: torch.device) -> None:
        """Compiles nothing yet."""
        self._graph, self._device = graph, device
        self.on_host: dict[tuple[int, ...], str] = {}

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of the main graph that compute no constants, in topological order."""
        return self._graph.nodes

    def compile(
        self,
        nodes: Sequence[Node],
        sample: Mapping[str, Any],  # noqa: ARG002 - torch needs no types in advance
        fetches: Sequence[str],
        weights: Mapping[str, Array],
    ) -> StageCall:
        """Makes a function that runs some nodes; see `TracedGraph.compile`. Its values are on the device."""
        key, read = tuple(node.index for node in nodes), {name for node in nodes for name in node.inputs}

        def compile_for_host() -> StageCall:
            return run_on_host(self._graph.compile(nodes, {}, fetches, weights), read, self._device, arrays=False)

        if key in self.on_host:
            return compile_for_host()

        def leave(_values: Mapping[str, Any], error: Exception) -> StageCall:
            self.on_host[key] = first_line(error)  # no kernel there, or a node that was traced for the host alone
            return compile_for_host()

        return fall_back(self._graph.compile_on(self._device, nodes, fetches, weights), (RuntimeError,), leave)
