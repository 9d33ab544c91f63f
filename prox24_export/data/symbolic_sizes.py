"""Sizes of axes that have a name, which may be an expression of other names, such as `past + sequence`.

The text comes from a model, so it may be anything: it is matched, parsed and walked, and never evaluated by Python.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping

LONGEST = 100  # characters of an expression; anything longer is only a name
LARGEST = 1 << 16  # a size beyond it would hardly fit in memory
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
# Names, whole numbers, + - * and parentheses. Possessive quantifiers: a text that does not match is given up at once.
_EXPRESSION = re.compile(r"(?:\s*+(?:[^\W\d]\w*+|\d{1,7}+(?!\w)|[-+*()]))++\s*+")


def find_symbols(name: str) -> tuple[str, ...]:
    """Finds the names on which the size of an axis depends: the name of the axis itself where it is no expression."""
    tree = _parse(name)
    if tree is None:
        return (name,)
    return tuple(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))


def compute_size(name: str, sizes: Mapping[str, int]) -> int | None:
    """Computes the size of an axis with a name.

    Args:
        name: The name, or an expression of names and whole numbers with `+`, `-`, `*` and parentheses.
        sizes: The sizes that are known, by name. A size for the whole text of an expression is taken before others.

    Returns:
        The size; None where it is not known, is below 1, or is unreasonably large.
    """
    tree = None if name in sizes else _parse(name)
    size = sizes.get(name) if tree is None else _compute(tree, sizes)
    return size if size is not None and 1 <= size <= LARGEST else None


def _parse(name: str) -> ast.expr | None:
    """Parses a text; None where it is no expression of the operators above."""
    if len(name) > LONGEST or not _EXPRESSION.fullmatch(name):
        return None
    try:
        tree = ast.parse(name.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if _is_arithmetic(tree) else None


def _is_arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.BinOp(left=left, op=operation, right=right):
            return type(operation) in OPERATORS and _is_arithmetic(left) and _is_arithmetic(right)
        case ast.Name():
            return True
        case ast.Constant(value=value):
            return type(value) is int
    return False


def _compute(node: ast.expr, sizes: Mapping[str, int]) -> int | None:
    match node:
        case ast.BinOp(left=left, op=operation, right=right):
            first, second = _compute(left, sizes), _compute(right, sizes)
            return None if first is None or second is None else OPERATORS[type(operation)](first, second)
        case ast.Name(id=name):
            return sizes.get(name)
        case ast.Constant(value=int(value)):
            return value
    return None
