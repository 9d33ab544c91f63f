"""Optimisation profiles: the syntax of `--shapes`, which is trtexec's and more, and the ranges of a model's inputs.

One string is for one or more inputs:

    x:8x3x224x224                                  one shape, which is smallest, likeliest and largest
    x:1x3x224x224,8x3x224x224,32x3x224x224         smallest, likeliest, largest
    ids:1x8,4x128,8x512,mask:1x8,4x128,8x512       several inputs
    input:0:1x3                                    a name with a colon
    'a,b':1x3                                      any other name in quotes, as for trtexec
    scale:scalar  or  scale:                       a scalar, as trtexec writes it
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prox24_export.errors import InputError

Shape = tuple[int, ...]
WANTED = "name:1x3x224x224 or name:MIN,OPT,MAX, e.g. x:1x3x224x224,8x3x224x224,32x3x224x224"
SCALAR = "scalar"
RANGE = 3  # smallest, likeliest, largest
_SIZES = re.compile(r"[0-9]{1,10}(?:[xX][0-9]{1,10})*")
_QUOTED = re.compile(r"'([^']*)':?")


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input that an engine accepts, and the one that it is tuned for.

    Attributes:
        min: The smallest size of every axis.
        opt: The likeliest shape, at which tactics are timed.
        max: The largest size of every axis.
    """

    min: Shape
    opt: Shape
    max: Shape

    @property
    def fixed(self) -> bool:
        """Whether only one shape is accepted."""
        return self.min == self.max

    def __str__(self) -> str:
        """The range in the syntax that `parse_shapes` reads."""
        shapes = (self.opt,) if self.fixed else (self.min, self.opt, self.max)
        return ",".join("x".join(str(size) for size in shape) or SCALAR for shape in shapes)


def parse_shapes(texts: Iterable[str]) -> dict[str, ShapeRange]:
    """Reads the values of any number of `--shapes`, and returns the ranges by input name.

    Raises:
        InputError: A text has none of these forms, a size is below 1, a range is out of order, or a name comes twice.
    """
    ranges: dict[str, ShapeRange] = {}
    for text in texts:
        for name, shapes in _read_inputs(text):
            if name in ranges:
                raise InputError(f"--shapes must name each input once. Got {name!r} twice.")
            ranges[name] = _make_range(name, shapes, text)
    return ranges


def complete_ranges(
    given: Mapping[str, ShapeRange], declared: Mapping[str, Sequence[int | None]], example: Mapping[str, Shape]
) -> dict[str, ShapeRange]:
    """Completes the ranges of a model's inputs: where none is given, only the shape of the example is accepted.

    Args:
        given: The ranges that the user gave, by input name.
        declared: The sizes of the model's inputs, by name; None where an axis is dynamic.
        example: The shapes of one batch by input name, for inputs that `given` leaves out.

    Raises:
        InputError: `given` names no input of the model, or does not fit its rank or its fixed sizes, or an input with
            dynamic axes is in neither.
    """
    unknown = sorted(given.keys() - declared.keys())
    if unknown:
        raise InputError(f"--shapes names {unknown[0]!r}. Expected inputs of the model: {', '.join(declared)}.")
    ranges = {}
    for name, sizes in declared.items():
        if name in given:
            ranges[name] = given[name]
        elif name in example or None not in sizes:
            shape = example.get(name, tuple(size for size in sizes if size is not None))
            ranges[name] = ShapeRange(shape, shape, shape)
        else:
            raise InputError(f"input {name!r} has dynamic axes. Give its sizes: --shapes {name}:MIN,OPT,MAX.")
        _expect_fits(name, ranges[name], sizes)
    return ranges


def _expect_fits(name: str, wanted: ShapeRange, declared: Sequence[int | None]) -> None:
    for shape in (wanted.min, wanted.opt, wanted.max):
        fits = len(shape) == len(declared) and all(
            size in (None, asked) for size, asked in zip(declared, shape, strict=True)
        )
        if not fits:
            sizes = "x".join("?" if size is None else str(size) for size in declared) or SCALAR
            got = "x".join(map(str, shape)) or SCALAR
            raise InputError(f"input {name!r} is declared as {sizes}, ? being any size. Got {got} in --shapes.")


def _read_inputs(text: str) -> list[tuple[str, list[Shape]]]:
    """Reads names with their shapes; an item without a name is one more shape of the input before it."""
    found: list[tuple[str, list[Shape]]] = []
    for quoted, item in _split_items(text):
        name, shape = _read_item(quoted, item)
        if shape is None or (name is None and not found):
            raise InputError(f"--shapes must look like {WANTED}. Got {text!r}: {item!r} is no shape of an input.")
        if name is not None:
            found.append((name, []))
        found[-1][1].append(shape)
    return found


def _split_items(text: str) -> list[tuple[str | None, str]]:
    """Splits a text at the commas outside quotes into items, each with the quoted name that it begins with."""
    items: list[tuple[str | None, str]] = []
    rest = text.strip()
    while True:
        quoted = _QUOTED.match(rest)
        name = quoted.group(1) if quoted else None
        item, comma, rest = rest[quoted.end() if quoted else 0 :].partition(",")
        items.append((name, item.strip()))
        if not comma:
            return items
        rest = rest.strip()


def _read_item(quoted: str | None, item: str) -> tuple[str | None, Shape | None]:
    """Reads name and shape of one item; it has no name where it is a shape alone, no shape where it is malformed."""
    if quoted is not None:
        return (quoted, _read_shape(item)) if quoted else (None, None)
    name, colon, sizes = item.rpartition(":")
    if not colon:
        return None, _read_shape(item) if item else None
    return (name, _read_shape(sizes)) if name else (None, None)


def _read_shape(text: str) -> Shape | None:
    if text.lower() in ("", SCALAR):
        return ()
    if not _SIZES.fullmatch(text):
        return None
    return tuple(int(size) for size in text.lower().split("x"))


def _make_range(name: str, shapes: Sequence[Shape], text: str) -> ShapeRange:
    if len(shapes) not in (1, RANGE):
        raise InputError(
            f"--shapes must give one shape or three (smallest, likeliest, largest) for {name!r}. "
            f"Got {len(shapes)} in {text!r}."
        )
    if any(size < 1 for shape in shapes for size in shape):
        raise InputError(
            f"--shapes must be sizes of at least 1. Got {text!r} for {name!r}. Quote a name that ends in a number: "
            "'input:0':1x3."
        )
    low, likely, high = shapes if len(shapes) == RANGE else (shapes[0],) * RANGE
    if not len(low) == len(likely) == len(high):
        raise InputError(f"--shapes must have as many axes in each shape of {name!r}. Got {text!r}.")
    if any(not a <= b <= c for a, b, c in zip(low, likely, high, strict=True)):
        raise InputError(f"--shapes must run from smallest to largest along every axis of {name!r}. Got {text!r}.")
    return ShapeRange(low, likely, high)
