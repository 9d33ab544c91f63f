"""Runs nodes of a traced program on another device than the one that it was traced on."""

from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

# A view wants strides as they were where the program was traced; kernels of another device may give others.
ELSEWHERE = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}
ATEN = torch.ops.aten
RECURRENT = {ATEN.lstm.input, ATEN.gru.input, ATEN.rnn_tanh.input, ATEN.rnn_relu.input}
DROPOUT, TRAIN = 5, 6  # places among their arguments


class DeviceInterpreter(fx.Interpreter):
    """Runs a program's nodes; those that name a device, to make or to expect a tensor there, get the one to run on."""

    def __init__(self, module: torch.nn.Module, device: torch.device | None) -> None:
        """Runs nothing yet.

        Args:
            module: The module of the nodes.
            device: The device to run on; None leaves nodes as they were traced.
        """
        super().__init__(module, garbage_collect_values=False)
        self._device = device

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the function of a node."""
        if self._device is not None:
            target = ELSEWHERE.get(target, target)
            args, kwargs = tree_map_only(torch.device, lambda _: self._device, (args, kwargs))
        return super().call_function(target, args, kwargs)


def move_nodes(graph: fx.Graph, device: torch.device) -> None:
    """Changes the nodes of a graph in the same way, and so that gradients can be computed there.

    Recurrences are told that they train, without dropping anything out: cuDNN computes no gradients of others.
    """
    for node in graph.nodes:
        if node.target in RECURRENT:
            node.args = (*node.args[:DROPOUT], 0.0, True, *node.args[TRAIN + 1 :])
        node.target = ELSEWHERE.get(node.target, node.target)
        node.args, node.kwargs = tree_map_only(torch.device, lambda _: device, (node.args, dict(node.kwargs)))
