"""A converted model on a device. What is computed of sizes alone stays on the host, which needs it there."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map_only

from prox24_export.passes.graph.on_device import exact_products
from prox24_export.passes.onnx_to_fx.check import Follow
from prox24_export.passes.onnx_to_fx.operators.make import shape_of, size_of
from prox24_export.passes.onnx_to_fx.table import TABLE

FEW = 64  # entries up to which an integer constant stays on the host, too
OF_SIZES = {shape_of, size_of}


class DeviceFunction:
    """A function of tensors on a device, which are left there.

    A model reads the sizes of its values, computes with them and gives values other sizes. A GPU would have to be
    waited for each time. So sizes are read on the host, where they are known, small integer constants stay there, and
    what is computed of these alone is computed there; it is moved where it meets a value of the device.
    """

    def __init__(self, module: fx.GraphModule, device: torch.device) -> None:
        """Moves the tensors of a module to the device.

        Args:
            module: The module. It is changed.
            device: The device.
        """
        named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in named:
            if not _is_of_sizes(tensor):
                delattr(module, name)
                module.register_buffer(name, tensor.detach().to(device))
        self._module, self._device = module, device
        self._interpreter = _Interpreter(module, device)

    def run(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Computes the outputs, on the device."""
        return self._run(self._interpreter, arguments)

    def run_followed(self, arguments: Sequence[Tensor], follow: Follow) -> None:
        """Runs it once, and goes on from each node with what `follow` returns."""
        self._run(_Interpreter(self._module, self._device, follow), arguments)

    @staticmethod
    def _run(interpreter: "_Interpreter", arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad(), exact_products():
            outputs: tuple[Tensor, ...] = interpreter.run(*arguments)
        return outputs


class _Interpreter(fx.Interpreter):
    """Runs a module node by node, each where its tensors are."""

    def __init__(self, module: fx.GraphModule, device: torch.device, follow: Follow | None = None) -> None:
        super().__init__(module)
        self.extra_traceback = False  # the message is our own
        self._device, self._follow = device, follow

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        return result if self._follow is None else self._follow(n, result)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in OF_SIZES:
            args = torch.empty(1).expand(args[0].shape), *args[1:]  # of that shape, in the host's memory
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if any(tensor.device == self._device for tensor in tensors):
            read = _list_read_by_host().get(target, frozenset())
            args, kwargs = (
                tuple(arg if place in read else self._move(arg) for place, arg in enumerate(args)),
                self._move(kwargs),
            )
        return super().call_function(target, args, kwargs)

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._move(super().output(target, args, kwargs))

    def _move(self, values: Any) -> Any:
        return tree_map_only(Tensor, lambda tensor: tensor.to(self._device), values)


@cache
def _list_read_by_host() -> dict[Any, frozenset[int]]:
    """The places of operands that functions of the table read as numbers, such as sizes and axes."""
    return {entry.function: entry.literals for entries in TABLE.values() for entry in entries}


def _is_of_sizes(tensor: Tensor) -> bool:
    return tensor.numel() <= FEW and not tensor.is_floating_point()
