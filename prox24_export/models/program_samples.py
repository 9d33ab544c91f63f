"""Example inputs in a `.pt2` file: what torch would unpickle is walked through first, and makes nothing.

torch writes them as a pickle in an archive of its own. Its reader makes only tensors and plain values of it, and still
a few bytes can ask for any memory, or for a walk without end through parts that share parts.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.storage import _storage_type_to_dtype_map

from prox24_export.errors import first_line
from prox24_export.models.program_expressions import is_identifier

START = b"PK\x03\x04"  # of an archive; torch reads other files as a bare pickle
VALUES, TENSOR = "data.pkl", "data/"
ENTRIES = re.compile(r"data\.pkl|data/\d+|byteorder|version|\.\w+|\.data/\w+", re.ASCII)
CODES = frozenset(
    {
        *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST"),
        *("APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "REDUCE", "BINPERSID"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    }
)
MOST_CODES = 1 << 19
MOST_VALUES = 10_000  # shared ones each time
DEEPEST = 100  # containers within each other; torch walks through them by recursion
EXPANDED = 1 << 24  # bytes that a tensor may have more than are stored, because it repeats them
STORAGES = _storage_type_to_dtype_map()


class UnknownSampleError(ValueError):
    """The example inputs hold something that is not known to be harmless; the message says what."""


@dataclass(frozen=True)
class _Stored:
    """The bytes of a tensor: how many there are, and how many each entry takes."""

    size: int
    each: int


class _Tensor:
    """Stands for a tensor whose entries all lie in what is stored of it."""


def expect_plain_samples(content: bytes) -> None:
    """Expects example inputs that are tensors, numbers and texts in tuples, lists and dictionaries.

    Args:
        content: What `torch.save` wrote.

    Raises:
        UnknownSampleError: They are something else, a key is no name (torch writes keys into code), there are more
            than 10,000, or a tensor has entries that are not stored.
    """
    if not content.startswith(START):
        raise UnknownSampleError("is none that torch.save wrote")
    pickled, sizes = _unpack(content)
    _expect_codes(pickled)
    try:
        value = _Walker(pickled, sizes).load()
    except UnknownSampleError:
        raise
    except Exception as error:
        raise UnknownSampleError(f"is no pickle of values: {first_line(error):.80}") from error
    _expect_values(value)


def _unpack(content: bytes) -> tuple[bytes, dict[str, int]]:
    """Returns the pickle in an archive, and the bytes of every entry by its name."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))  # noqa: SLF001 - the reader that torch.load uses
        sizes = {name: measure(reader, name) for name in reader.get_all_records()}
        whole = sum(sizes.values()) <= len(content)
        pickled = bytes(reader.get_record(VALUES)) if whole else b""
    except (RuntimeError, ValueError) as error:  # names need not be UTF-8
        raise UnknownSampleError("is none that torch.save wrote") from error
    odd = next((name for name in sizes if not ENTRIES.fullmatch(name)), None)
    if odd is not None:
        raise UnknownSampleError(f"holds {odd:.60}, and is none that torch.save wrote")
    if not whole:
        raise UnknownSampleError("unpacks to more than it holds")
    return pickled, sizes


def measure(reader: Any, name: str) -> int:
    """The bytes of an entry when it is unpacked; the reader of torch 2.9 cannot tell them before it unpacks it."""
    get_size = getattr(reader, "get_record_size", None)
    return int(get_size(name) if get_size else len(reader.get_record(name)))


def _expect_codes(pickled: bytes) -> None:
    """Expects the few instructions that plain values need; a pickler may number its values no further than they go."""
    count = 0
    codes = pickletools.genops(pickled)
    while (found := _read_code(codes)) is not None:
        code, argument = found
        count += 1
        if code not in CODES:
            raise UnknownSampleError(f"has the instruction {code} in its pickle")
        if count > MOST_CODES or (code == "LONG_BINPUT" and argument > MOST_CODES):
            raise UnknownSampleError(f"has more than {MOST_CODES:,} instructions in its pickle")


def _read_code(codes: Iterator[Any]) -> tuple[str, Any] | None:
    """Reads the name and the argument of the next instruction; None behind the last one."""
    try:
        code, argument, _ = next(codes)
    except StopIteration:
        return None
    except Exception as error:  # the module does not say what may come
        raise UnknownSampleError(f"is no pickle of values: {first_line(error):.80}") from error
    return code.name, argument


class _Walker(pickle._Unpickler):  # noqa: SLF001 - the one in Python, of which an instruction can be replaced
    """Reads a pickle with something in the place of every tensor that only knows its size."""

    def __init__(self, pickled: bytes, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self._sizes = sizes

    def _set_items(self: Any) -> None:
        """Puts entries into a dictionary, whose keys must be names: others can take for ever to be looked up."""
        items = self.pop_mark()
        entries = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (type(key) is int or (type(key) is str and is_identifier(key))):
                raise UnknownSampleError(f"has a key that is no name: {_show(key)}")
            entries[key] = value

    def _set_item(self: Any) -> None:
        items = [self.stack.pop(-2), self.stack.pop()]
        self.metastack.append(self.stack)
        self.stack = items
        self._set_items()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch | {  # noqa: SLF001
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Finds what stands for a function or a value of torch."""
        if f"{module}.{name}" in KNOWN:
            return KNOWN[f"{module}.{name}"]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        found = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        if isinstance(found, torch.dtype):
            return found
        raise UnknownSampleError(f"names {module:.40}.{name:.40}, which no tensor, number or text needs")

    def persistent_load(self, reference: Any) -> _Stored:
        """Finds the bytes of a tensor."""
        _kind, dtype, key, _place, count = reference
        size = self._sizes.get(f"{TENSOR}{key}", -1)
        each: int = dtype.itemsize
        if type(count) is not int or count * each != size:
            raise UnknownSampleError(f"has a tensor of {count} entries, and {max(size, 0)} bytes are stored of it")
        return _Stored(size, each)


def _make_tensor(stored: Any, offset: Any, shape: Any, strides: Any, *_options: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(stored, _Stored) or len(shape) != len(strides) or any(type(n) is not int for n in numbers):
        raise UnknownSampleError("has a tensor without sizes")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    count = math.prod(shape)
    outside = min(numbers) < 0 or (count > 0 and (last + 1) * stored.each > stored.size)
    if outside or count * stored.each > stored.size + EXPANDED:
        raise UnknownSampleError(f"has a tensor {list(shape)!s:.60} larger than what is stored of it")
    return _Tensor()


def _make_parameter(tensor: Any, *_options: Any) -> Any:
    return tensor


def _make_marked(make: Any, kind: Any, arguments: Any, marks: Any) -> _Tensor:
    """Makes a tensor with what torch.export notes on an example input whose sizes may change."""
    if make is not _make_tensor or kind is not PLAIN_TENSOR or not isinstance(marks, dict):
        raise UnknownSampleError("has a tensor of a kind of its own")
    odd = next((name for name in marks if not (name == "_specialize_on" or str(name).startswith("_dynamo_"))), None)
    if odd is not None:
        raise UnknownSampleError(f"has a tensor with the attribute {odd!s:.40}")
    _expect_values(marks)
    found: _Tensor = make(*arguments)
    return found


def _make_size(sizes: Any) -> tuple[()]:
    if not isinstance(sizes, (tuple, list)) or any(type(size) is not int for size in sizes):
        raise UnknownSampleError("has sizes that are no numbers")
    return ()


def _make_device(*_place: Any) -> str:
    return "device"


def _make_complex(*_parts: float) -> complex:
    return 0j


def _make_dictionary() -> dict[Any, Any]:
    return {}


PLAIN_TENSOR = object()  # stands for torch.Tensor, which is named and never called
KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._tensor._rebuild_from_type_v2": _make_marked,
    "torch.Tensor": PLAIN_TENSOR,
    "torch._utils._rebuild_parameter": _make_parameter,
    "torch.Size": _make_size,
    "torch.device": _make_device,
    "collections.OrderedDict": _make_dictionary,
    "builtins.complex": _make_complex,
    "__builtin__.complex": _make_complex,
}


def _expect_values(value: Any) -> None:
    """Walks through the values, through shared ones each time, until there are too many."""
    left, count = [iter((value,))], 0
    while left:
        part = next(left[-1], left)
        if part is left:
            left.pop()
            continue
        count += 1
        if count > MOST_VALUES:
            raise UnknownSampleError(f"holds more than {MOST_VALUES:,} values, those that are shared counted each time")
        if isinstance(part, (tuple, list, dict)):
            if len(left) > DEEPEST:
                raise UnknownSampleError("holds too many values within each other")
            left.append(iter(part.values() if isinstance(part, dict) else part))
        elif part is not None and not isinstance(part, (bool, int, float, complex, str, _Tensor, torch.dtype)):
            raise UnknownSampleError(f"holds a {getattr(part, '__name__', type(part).__name__):.40}")


def _show(key: Any) -> str:
    return f"{key:.60}" if isinstance(key, str) else f"a {type(key).__name__}"
