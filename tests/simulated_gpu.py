"""GPUs that are not there: tensors that say `cuda:0` or `cuda:1`, hold CPU values, and refuse what a GPU refuses.

Code under test takes a `torch.device` and nothing else. Within `simulate_gpu` an operator may not mix tensors of two
devices, compiled CPU kernels find no memory to work on, and everything that comes back to the host is counted: copies
of tensors, and numbers that are read, each of which makes a real GPU wait. Values are those of the CPU's own kernels.
"""
# ruff: noqa: SLF001 - what a class of tensors needs has an underscore in torch

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

import prox24_export.solver
from prox24_export.solver import kernels_cpu
from prox24_export.solver.pattern import GROUP

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
FEW = 16  # entries up to which what comes back counts as numbers that are read, such as a loop's condition
MEMORY = 1 << 40
ATEN = torch.ops.aten
COPIES = {ATEN._to_copy.default}
WAITS = {  # operators whose result has a size, or is a number, that the host must know
    *(ATEN.nonzero.default, ATEN.masked_select.default, ATEN.equal.default, ATEN.is_nonzero.default),
    *(ATEN._unique2.default, ATEN.repeat_interleave.Tensor, ATEN._local_scalar_dense.default),
}
NUMBERS = {ATEN.scalar_tensor.default}  # which torch makes of a number beside a tensor; it goes to any device
INDEXED = {ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default}
ROOT = f"{Path(__file__).resolve().parents[1]}/"


@dataclass
class Traffic:
    """What came back to the host.

    Attributes:
        copies: Where each tensor of more than `FEW` entries was copied to the host: file and line.
        reads: Where the host waited for a few numbers.
        uploads: Entries that were copied to a GPU, one number for each copy.
        work: How many operators each GPU has run, by its number.
    """

    copies: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)
    work: Counter[int] = field(default_factory=Counter)

    def note(self, entries: int) -> None:
        """Notes that so many entries came back."""
        (self.copies if entries > FEW else self.reads).append(_find_caller())


class SimulatedTensor(Tensor):
    """A tensor that says `cuda:0`, or another number, and holds one of the CPU, its only memory."""

    held: Tensor
    number: int

    @staticmethod
    def __new__(cls: type["SimulatedTensor"], held: Tensor, number: int = 0) -> "SimulatedTensor":  # noqa: PYI034 - torch wants no Self
        """Wraps a tensor of the CPU, which nothing else may use, on the GPU of this number."""
        made: SimulatedTensor = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=torch.device("meta")
        )
        made.held, made.number = held, number
        return made

    device = property(
        lambda self: torch.device("cuda", self.number)
    )  # torch itself takes it for a tensor without memory
    is_cuda = property(lambda _: True)
    is_meta = property(lambda _: False)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SimulatedTensor({tuple(self.shape)}, {self.dtype})"

    def __reduce_ex__(self, _: Any) -> Any:
        """What a journal saves of the refinement; these copies, which take little of its time, are not counted."""
        return SimulatedTensor, (self.held, self.number)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is Tensor.tolist:  # which torch refuses for every class of tensors but its own
            return args[0].cpu().tolist()
        if func is Tensor.to and isinstance(args[0], SimulatedTensor) and _changes_nothing(*args, **given):
            return args[0]
        return torch._C._disabled_torch_function_impl(func, types, args, given)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # as torch calls it
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise RuntimeError(f"{func} was called on a simulated tensor outside of simulate_gpu")


class SimulatedGpu(TorchDispatchMode):  # type: ignore[no-untyped-call] # as are others of torch's own
    """Runs every operator on the CPU, in the name of the device that a real one would run on."""

    def __init__(self, traffic: Traffic, largest: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._traffic, self._largest = traffic, largest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = dict(kwargs or {})
        tensors = _list_tensors((*args, *given.values()))
        simulated = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
        asked = given.get("device")
        if not simulated and not _is_gpu(asked):
            return func(*args, **given)
        if func is ATEN.copy_.default:
            return self._copy_into(*args)
        wanted = CPU if func in NUMBERS and not simulated else _find_device(asked, simulated)
        if asked is not None:
            given["device"] = CPU
        if func in COPIES:
            self._note_copy(tensors[0], wanted)
        elif simulated:
            self._expect_one_device(func, tensors)
            if func in WAITS or (func in INDEXED and _has_mask(args[1])):
                self._traffic.note(1)
        found = func(*_unwrap(args), **{name: _unwrap(value) for name, value in given.items()})
        if wanted.type == "cpu" or not _list_tensors((found,)):
            return found
        self._expect_memory(func, found)
        self._traffic.work[wanted.index] += 1
        wrapped = _wrap(found, wanted.index)
        if not _is_aliasing(func):
            return wrapped
        return return_and_correct_aliasing(func, args, dict(kwargs or {}), wrapped)  # type: ignore[no-untyped-call]

    def _copy_into(self, target: Tensor, source: Tensor, *_: Any) -> Tensor:
        if isinstance(source, SimulatedTensor) != isinstance(target, SimulatedTensor):
            self._note_copy(source, target.device)
        _unwrap(target).copy_(_unwrap(source))
        return target

    def _note_copy(self, source: Tensor, wanted: torch.device) -> None:
        if wanted.type == "cpu":
            self._traffic.note(source.numel())
        elif not isinstance(source, SimulatedTensor):
            self._traffic.uploads.append(source.numel())

    def _expect_memory(self, func: Any, found: Any) -> None:
        for tensor in _list_tensors((found,)):
            if tensor.nbytes > self._largest:
                raise torch.OutOfMemoryError(f"{func} wants {tensor.nbytes} bytes")

    @staticmethod
    def _expect_one_device(func: Any, tensors: list[Tensor]) -> None:
        """Refuses what a GPU refuses; a tensor without axes may come from the host, as numbers do."""
        first = next(tensor for tensor in tensors if isinstance(tensor, SimulatedTensor))
        for tensor in tensors:
            may_come = not isinstance(tensor, SimulatedTensor) and not tensor.dim()
            if tensor.device != first.device and not may_come:
                raise RuntimeError(
                    f"{func}: expected all tensors to be on one device. Got {first.device} and {tensor.device}, of "
                    f"shape {tuple(tensor.shape)}."
                )


@contextmanager
def simulate_gpu(patch: pytest.MonkeyPatch, largest: float = math.inf, count: int = 1) -> Iterator[Traffic]:
    """Lets torch see GPUs as long as the block runs, and counts what comes back from them.

    Triton's kernels are replaced by the compiled kernels of the CPU: what they compute on a GPU is tested in Triton's
    interpreter, see `tests/solver/test_kernels_cuda.py`.

    Args:
        patch: Undoes what is replaced in torch.
        largest: Bytes of the largest tensor for which there is memory.
        count: How many GPUs there are.
    """
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "_lazy_init": lambda: None,
        "get_device_capability": lambda *_: (7, 5),  # without bfloat16, so that products are those of the CPU
        "get_device_name": lambda *_: "Simulated GPU",
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
    }.items():
        patch.setattr(torch.cuda, name, value)
    traffic = Traffic()
    kernels = _make_kernels(traffic)
    patch.setitem(sys.modules, "prox24_export.solver.kernels_cuda", kernels)
    patch.setattr(prox24_export.solver, "kernels_cuda", kernels, raising=False)
    patch.setattr("prox24_export.solver.prox._is_triton_installed", lambda: True)
    submit = ThreadPoolExecutor.submit

    def submit_simulated(pool: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Any:
        def run() -> Any:
            with _dispatch(traffic, largest):  # which torch keeps for each thread
                return work(*args)

        return submit(pool, run)

    patch.setattr(ThreadPoolExecutor, "submit", submit_simulated)
    with torch.serialization.safe_globals([SimulatedTensor]), _dispatch(traffic, largest):
        yield traffic


@contextmanager
def _dispatch(traffic: Traffic, largest: float) -> Iterator[None]:
    """Simulates GPUs in this thread."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=) then copies
    try:
        with torch.autograd.set_multithreading_enabled(False), SimulatedGpu(traffic, largest):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _make_kernels(traffic: Traffic) -> ModuleType:
    """What stands in for Triton's kernels; their counts are read once, as the real ones' are."""
    kernels, lock = ModuleType("prox24_export.solver.kernels_cuda"), Lock()  # threads of numba serve one at a time

    def view(tensor: Tensor) -> Any:
        return _unwrap(tensor).view(-1, GROUP).numpy()

    def prox(z: Tensor, out: Tensor, strength: float) -> None:
        with lock:
            kernels_cpu.prox(view(z), view(out), strength)

    def step(run: Callable[..., Any]) -> Callable[..., tuple[int, int]]:
        def stepped(product: Tensor, gap: Tensor, sparse: Tensor, target: Tensor, *numbers: float) -> tuple[int, int]:
            with lock:
                counts = run(*map(view, (product, gap, sparse, target)), *numbers)
            traffic.note(len(counts))
            return int(counts[0]), int(counts[1])

        return stepped

    kernels.__dict__.update(
        prox=prox, splitting_step=step(kernels_cpu.splitting_step), gradient_step=step(kernels_cpu.gradient_step)
    )
    return kernels


def _list_tensors(values: Any) -> list[Tensor]:
    """All tensors in arguments or results; torch's own walk through them takes most of the time otherwise."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _list_tensors(value)
    return found


def _unwrap(value: Any) -> Any:
    if isinstance(value, SimulatedTensor):
        return value.held
    return type(value)(map(_unwrap, value)) if isinstance(value, (list, tuple)) else value


def _wrap(value: Any, number: int) -> Any:
    if isinstance(value, Tensor):
        return SimulatedTensor(value, number)
    if isinstance(value, (list, tuple)):
        wrapped = [_wrap(one, number) for one in value]
        return wrapped if isinstance(value, list) else tuple(wrapped)
    return value


def _find_device(asked: Any, simulated: list[SimulatedTensor]) -> torch.device:
    """The device of a result: the one asked for, else that of what it is made of."""
    if asked is not None and not _is_gpu(asked):
        return CPU
    if asked is not None and torch.device(asked).type == "cuda":
        return torch.device("cuda", torch.device(asked).index or 0)
    return simulated[0].device if simulated else GPU


@cache
def _is_aliasing(func: Any) -> bool:
    """Whether an operator changes an argument or returns a view of one."""
    return any(argument.alias_info is not None for argument in func._schema.arguments)


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type in {"cuda", "meta"}


def _changes_nothing(tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> bool:
    """Whether `Tensor.to` with these arguments returns the tensor itself."""
    if args and isinstance(args[0], Tensor):
        device, dtype = args[0].device, args[0].dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    moves = device is not None and (device.type != "cuda" or (device.index or 0) != tensor.device.index)
    return not copy and not moves and dtype in {None, tensor.dtype}


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)


def _find_caller() -> str:
    """The two innermost lines of the project, outside of this file, that are running."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < 2:
        file = frame.f_code.co_filename
        if file.startswith(ROOT) and file != __file__:
            found.append(f"{file.removeprefix(ROOT)}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment] # None at the outermost
    return " < ".join(found)
