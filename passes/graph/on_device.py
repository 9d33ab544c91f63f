"""Values of a graph on another device than the host: how they come there, and back."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prox24_export.facts.out_of_memory import is_out_of_memory
from prox24_export.passes.graph.arrays import Array, as_array, as_tensor
from prox24_export.passes.graph.protocol import Feeds

CPU = torch.device("cpu")
OF_TORCH = {*"?bhilqBefd"}  # characters of the NumPy dtypes that torch takes; bfloat16 has its own
StageCall = Callable[[Mapping[str, Any]], dict[str, Any]]


def move_to(value: Any, device: torch.device | None) -> Any:
    """Moves an array, a tensor, or those in a tuple or list to a device, as tensors; everything else stays as it is.

    Args:
        value: The value.
        device: The device; None leaves the value where and as it is.
    """
    if device is None:
        return value
    if isinstance(value, np.ndarray) and (value.dtype.char in OF_TORCH or value.dtype.name == "bfloat16"):
        return as_tensor(value).to(device)
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        moved = [move_to(one, device) for one in value]
        return tuple(moved) if isinstance(value, tuple) else moved
    return value


@dataclass(frozen=True)
class TensorRunner:
    """Runs a whole model, and brings its outputs to the host where it is called; a `Runner`.

    Attributes:
        run: Takes feeds and returns outputs where they were computed, in the order in which the graph has them.
    """

    run: Callable[[Feeds], Sequence[Tensor]]

    def __call__(self, feeds: Feeds) -> list[Array]:
        """Runs the model on some feeds."""
        return [as_array(output) for output in self.run(feeds)]

    def holds_nan(self, feeds: Feeds) -> bool:
        """Whether an output of floats holds NaN on some feeds; nothing else of it comes to the host."""
        return any(bool(torch.isnan(output).any()) for output in self.run(feeds) if output.is_floating_point())


@contextmanager
def exact_products() -> Iterator[None]:
    """Keeps torch from rounding the operands of float32 products to TF32, as it does for convolutions on GPUs."""
    cudnn: Any = torch.backends.cudnn  # whose stubs lack these
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def fall_back(
    call: StageCall,
    failures: tuple[type[Exception], ...],
    compile_for_host: Callable[[Mapping[str, Any], Exception], StageCall],
) -> StageCall:
    """Makes a function that runs on a device until that fails, and from then on the host.

    Args:
        call: The function of values on the device.
        failures: How it fails, beside a lack of memory, which is raised.
        compile_for_host: Makes the function for the host, of the values that the other one failed with and of why.
    """
    is_on_host = False

    def run(values: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal call, is_on_host
        if not is_on_host:
            try:
                return call(values)
            except failures as error:
                if is_out_of_memory(error):
                    raise
                call, is_on_host = compile_for_host(values, error), True
        return call(values)

    return run


def run_on_host(run: StageCall, names: Collection[str], device: torch.device, *, arrays: bool) -> StageCall:
    """Makes a function of values on the host one of values on a device, which travel there and back.

    Args:
        run: The function, of values by name.
        names: The values that it reads.
        device: The device.
        arrays: Whether the function takes arrays; otherwise it takes tensors.
    """

    def to_host(value: Any) -> Any:
        return as_array(value) if arrays and isinstance(value, Tensor) else move_to(value, CPU)

    def moved(values: Mapping[str, Any]) -> dict[str, Any]:
        results = run({name: to_host(value) for name, value in values.items() if name in names})
        return {name: move_to(value, device) for name, value in results.items()}

    return moved
