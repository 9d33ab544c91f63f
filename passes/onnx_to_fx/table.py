"""The table of ONNX operators that run as differentiable torch functions, and the way to look up an operator in it."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from prox24_export.errors import Prox24Error

OLDEST_OPSET = 7  # the oldest that ONNX Runtime promises to run
NEWEST_OPSET = 28  # the newest that the operators here were tested with
# Sizes, axes or positions: Python numbers where the model stores them, else tensors.
Ints = Tensor | Sequence[int] | int
Floats = Tensor | Sequence[float] | float
Function = TypeVar("Function", bound=Callable[..., Any])


class NotDifferentiableError(Prox24Error):
    """The model cannot run as a differentiable function.

    Attributes:
        operator: The ONNX operator that cannot be converted.
        node: Name of its node.
    """

    def __init__(self, operator: str, node: str, detail: str = "") -> None:
        """Makes the error.

        Args:
            operator: The ONNX operator.
            node: Name of its node.
            detail: The case of the operator that is not covered; empty where no case is covered.
        """
        because = f" ({detail})" if detail else ""
        super().__init__(f"not differentiable here: operator {operator} at node {node}{because}")
        self.operator = operator
        self.node = node


class Unsupported(ValueError):  # noqa: N818 (a verdict that becomes a NotDifferentiableError once the node is known)
    """A case of an operator that its function does not compute."""


@dataclass(frozen=True)
class Operator:
    """One entry of the table: the meaning of an operator from one opset on.

    Attributes:
        function: Computes the operator. It takes the node's inputs in order, with None for one that is left out, and
            its attributes by name. Where it has a keyword `outputs`, it takes the number of outputs by it and returns a
            tuple; otherwise it returns the one output.
        since: The first opset in which the operator has this meaning.
        keywords: Names that the function takes by keyword.
        arity: The most inputs that the function takes; None where it takes any number.
        extra: Further keyword arguments, the same for every node.
        only: By name of an attribute, a function that tells whether a value of it is covered.
        literals: Indices of inputs that arrive as Python numbers where the model stores them. No gradient reaches them.
        fixed: Indices of other inputs that no gradient reaches.
        detached: Whether no gradient passes at all.
    """

    function: Callable[..., Any]
    since: int
    keywords: frozenset[str]
    arity: int | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    literals: frozenset[int] = frozenset()
    fixed: frozenset[int] = frozenset()
    detached: bool = False

    def keyword_arguments(self, attributes: Mapping[str, Any], inputs: int, outputs: int) -> dict[str, Any]:
        """Makes the keyword arguments of the function for a node.

        Args:
            attributes: The attributes of the node by name.
            inputs: The number of its inputs.
            outputs: The number of its outputs.

        Raises:
            Unsupported: The function does not cover an attribute, or the number of inputs or outputs.
        """
        if self.arity is not None and inputs > self.arity:
            raise Unsupported(f"{inputs} inputs")
        if outputs > 1 and "outputs" not in self.keywords:
            raise Unsupported(f"{outputs} outputs")
        for name, value in attributes.items():
            if name not in self.keywords and name not in self.only:
                raise Unsupported(f"attribute {name}")
            if name in self.only and not self.only[name](value):
                raise Unsupported(f"{name} = {value}")
        known = {name: value for name, value in attributes.items() if name in self.keywords}
        return known | dict(self.extra) | ({"outputs": outputs} if "outputs" in self.keywords else {})


TABLE: dict[str, list[Operator]] = {}


def operator(
    *names: str,
    since: int = 1,
    extra: Mapping[str, Any] | None = None,
    only: Mapping[str, Callable[[Any], bool]] | None = None,
    literals: Iterable[int] = (),
    fixed: Iterable[int] = (),
    detached: bool = False,
) -> Callable[[Function], Function]:
    """Enters a function into the table, as the meaning of these operators from opset `since` on.

    The other arguments are the fields of `Operator`.
    """

    def enter(function: Function) -> Function:
        keywords, arity = _read_signature(function)
        keywords -= (extra or {}).keys()
        for name in names:
            entry = Operator(
                *(function, since, keywords, arity, extra or {}, only or {}),
                *(frozenset(literals), frozenset(fixed), detached),
            )
            TABLE.setdefault(name, []).append(entry)
        return function

    return enter


def look_up(name: str, opset: int) -> Operator | None:
    """Looks up an operator of the default domain in the table; None where the table does not cover that opset."""
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        return None
    found = [entry for entry in TABLE.get(name, ()) if entry.since <= opset]
    return max(found, key=lambda entry: entry.since, default=None)


def make_membership_test(*values: Any) -> Callable[[Any], bool]:
    """Makes a test of whether a value is one of these."""
    return values.__contains__


def are_all_ones(values: Sequence[int]) -> bool:
    """Whether all numbers are 1, so that an attribute with one number per axis changes nothing."""
    return all(value == 1 for value in values)


def read_ints(value: Ints) -> list[int]:
    """Reads sizes, axes or positions as Python integers."""
    if isinstance(value, Tensor):
        return [int(entry) for entry in value.reshape(-1).tolist()]
    return [int(value)] if isinstance(value, int | float) else [int(entry) for entry in value]


def read_floats(value: Floats) -> list[float]:
    """Reads a stored or computed vector as Python floats."""
    if isinstance(value, Tensor):
        return [float(entry) for entry in value.reshape(-1).tolist()]
    return [float(value)] if isinstance(value, int | float) else [float(entry) for entry in value]


def read_number(value: Floats) -> int | float | bool:
    """Reads the one entry of a tensor or of a literal as a Python number."""
    if isinstance(value, Tensor):
        return value.item()
    return value if isinstance(value, int | float) else value[0]


def as_tensor(value: Ints, like: Tensor) -> Tensor:
    """Makes an int64 tensor of positions, on the device of `like`."""
    if isinstance(value, Tensor):
        return value.to(like.device, torch.int64)
    return torch.tensor(value, dtype=torch.int64, device=like.device)


def _read_signature(function: Callable[..., Any]) -> tuple[frozenset[str], int | None]:
    """Reads the keyword names of a function and the number of its positional arguments.

    Torch's own functions tell neither: they give no names and None.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return frozenset(), None
    keywords = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return keywords, None
    return keywords, sum(p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} for p in parameters)
