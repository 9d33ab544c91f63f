"""What symbolic expressions and guards in a `.pt2` file may say: torch evaluates both as Python code.

Sizes are written as sympy writes them (`Mul(Integer(2), Symbol('s77', positive=True, integer=True))`), guards as
Python on the inputs (`L['x'].size()[0] <= 64`). Both are parsed here and let through only where every part is known to
do nothing but arithmetic, of a size that ends.
"""

import ast
import math
import re
from functools import cache

LONGEST = 1 << 13  # characters
ALL = 1 << 16  # characters of all different expressions of a program
DEEPEST = 60  # calls and operators within each other
DIGITS = 40
EXPONENT = 64  # the largest, and the product of those that stand within each other
POWER = 4  # the largest exponent of a sum
TERMS = 64  # of the sum that products and powers of sums become: sympy multiplies them out
ARGUMENTS = 16  # of a call; sympy compares each with each
INDEX = 6  # digits of the number of an unbacked symbol: torch counts up to it

SYMBOL = re.compile(r"s\d{1,20}|zf\d{1,20}|(u|zuf)\d{1,6}")
RANGE = re.compile(r"(?!u|zuf)[A-Za-z0-9_*+/%, ()\-]{1,400}")  # of an expression; it is only compared with others
NUMBER = re.compile(r"-?\d{1,40}(\.\d{0,40})?(e[+-]?\d{1,3})?")
EXPRESSION = re.compile(r"[A-Za-z0-9_(),=.' \-]*")
GUARD = re.compile(r"[A-Za-z0-9_()\[\],.' <>=!%*/+\-]*")

ASSUMPTIONS = frozenset({"integer", "positive", "negative", "nonnegative", "nonzero", "real", "finite", "commutative"})
CONSTANTS = frozenset({"true", "false"})
POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift", "RShift"})
FUNCTIONS = POWERS | {
    *("Add", "Mul", "Max", "Min", "Abs", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "ModularIndexing"),
    *("IntTrueDiv", "FloatTrueDiv", "CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "RoundToInt"),
    *("RoundDecimal", "ToFloat", "Identity", "floor", "ceiling", "And", "Or", "Not", "Where", "Equality"),
    *("Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan"),
    "IsNonOverlappingAndDenseIndicator",
}
SUMS = frozenset({"Add", "Max", "Min"})
MULTIPLIED = frozenset({"Add", "Mul", "Identity", "ToFloat", "IntTrueDiv", "FloatTrueDiv"})
METHODS = frozenset({"size", "stride", "storage_offset", "numel", "dim", "item"})
CALLED = frozenset(
    {
        *("max", "min", "abs", "int", "float", "round", "len"),
        *("math.floor", "math.ceil", "math.trunc", "math.sqrt", "math.isnan"),
        *("torch.sym_max", "torch.sym_min", "torch.sym_not", "torch.sym_ite", "torch.sym_float", "torch.sym_int"),
        *("torch._sym_sqrt", "torch.sym_sqrt"),
    }
)
NUMBERS = frozenset({"math.inf", "math.nan"})
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)


class UnknownCodeError(ValueError):
    """An expression holds something that is not known to be arithmetic; the message says what."""


@cache
def expect_expression(text: str) -> None:
    """Expects a symbolic expression as sympy's `srepr` writes it.

    Raises:
        UnknownCodeError: It is none, or is longer, deeper or larger than sizes of tensors are.
    """
    node = _parse(text, EXPRESSION)
    _check_expression(node, DEEPEST, EXPONENT)
    _count_terms(node)


@cache
def expect_guard(text: str) -> None:
    """Expects a condition on sizes and values of inputs.

    Raises:
        UnknownCodeError: It is none, or is longer, deeper or larger than conditions are.
    """
    _check_guard(_parse(text, GUARD), DEEPEST, EXPONENT)


def has_range(name: str) -> bool:
    """Whether a name can be that of a symbol or of an expression whose range is told."""
    return is_symbol(name) or RANGE.fullmatch(name) is not None


def is_symbol(name: str) -> bool:
    """Whether a name is one of a symbol for a size or a number, as torch makes them."""
    return SYMBOL.fullmatch(name) is not None


def is_identifier(name: str) -> bool:
    """Whether a name can stand in Python code as one: torch writes those of values and arguments into code."""
    return name.isascii() and name.isidentifier()


def _parse(text: str, allowed: re.Pattern[str]) -> ast.expr:
    if len(text) > LONGEST:
        raise UnknownCodeError(f"{len(text):,} characters")
    if not allowed.fullmatch(text):
        raise UnknownCodeError("a character that no expression has")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UnknownCodeError("no Python expression") from error


def _check_expression(node: ast.expr, depth: int, exponent: int) -> None:
    """Checks what sympy will evaluate; `exponent` is the largest that may still stand around what is inside."""
    if depth < 0:
        raise UnknownCodeError("too many calls within each other")
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        return
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise UnknownCodeError(_show(node))
    name = node.func.id
    if name in FUNCTIONS and not node.keywords:
        if name in POWERS:
            exponent = _reduce_exponent(node.args, exponent)
        for argument in node.args:
            _check_expression(argument, depth - 1, exponent)
    elif not _is_leaf(name, node):
        raise UnknownCodeError(_show(node))


def _count_terms(node: ast.expr) -> int:
    """Counts the terms of the sum that a known expression is when it is multiplied out.

    Raises:
        UnknownCodeError: There are more than sizes of tensors have.
    """
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
        return 1
    if len(node.args) > ARGUMENTS:
        raise UnknownCodeError(f"a call with {len(node.args)} arguments")
    counts = [_count_terms(argument) for argument in node.args]
    name = node.func.id
    terms = sum(counts) if name in SUMS else math.prod(counts)
    if name in POWERS and counts[0] > 1:
        exponent = abs(float(str(_read_constant(node.args[1].args[0]))))  # type: ignore[attr-defined] # is a number
        if exponent > POWER:
            raise UnknownCodeError("a power of a sum")
        terms = counts[0] ** math.ceil(exponent)
    if terms > TERMS:
        raise UnknownCodeError("products of sums that have too many terms")
    return terms if name in POWERS or name in MULTIPLIED else 1


def _is_leaf(name: str, node: ast.Call) -> bool:
    """Whether a call makes a symbol or a number."""
    values = [_read_constant(argument) for argument in node.args]
    options = {option.arg: _read_constant(option.value) for option in node.keywords}
    if name == "Symbol":
        plain = all(key in ASSUMPTIONS and isinstance(value, bool) for key, value in options.items())
        return len(values) == 1 and isinstance(values[0], str) and is_symbol(values[0]) and plain
    if name == "Float":
        precise = options.keys() <= {"precision"} and all(_is_small(value, 1000) for value in options.values())
        return len(values) == 1 and isinstance(values[0], str) and bool(NUMBER.fullmatch(values[0])) and precise
    count = {"Integer": 1, "Rational": 2}.get(name, -1)
    return len(values) == count and not options and all(_is_small(value, 10**DIGITS) for value in values)


def _reduce_exponent(arguments: list[ast.expr], most: int) -> int:
    """The largest exponent that may stand within a power with these arguments.

    Raises:
        UnknownCodeError: The power's own exponent is no number, or too large.
    """
    if len(arguments) == 2 and isinstance(arguments[1], ast.Call) and isinstance(arguments[1].func, ast.Name):  # noqa: PLR2004 - base and exponent
        kind, values = arguments[1].func.id, [_read_constant(argument) for argument in arguments[1].args]
        if kind == "Integer" and len(values) == 1 and _is_small(values[0], most):
            return most // max(1, abs(int(str(values[0]))))
        if kind in {"Rational", "Float"} and all(_is_small(value, most) or _is_short(value) for value in values):
            return most
    raise UnknownCodeError("a power whose exponent is no small number")


def _check_guard(node: ast.expr, depth: int, exponent: int) -> None:
    """Checks what Python will evaluate."""
    if depth < 0:
        raise UnknownCodeError("too many operators within each other")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        power = _read_constant(node.right)
        if not (isinstance(power, (int, float)) and abs(power) <= exponent):
            raise UnknownCodeError("a power whose exponent is no small number")
        exponent //= max(1, int(abs(power)))
    for part in _list_parts(node):
        _check_guard(part, depth - 1, exponent)


def _list_parts(node: ast.expr) -> list[ast.expr]:
    """Lists what an operator or a known function is applied to; nothing for inputs and numbers.

    Raises:
        UnknownCodeError: It is something else.
    """
    plain = isinstance(node, (ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp))
    if plain or (isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS)):
        return [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLED and not node.keywords:
        return node.args
    if not (_is_number(node) or _is_source(node)):
        raise UnknownCodeError(_show(node))
    return []


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in NUMBERS
    value = _read_constant(node)
    return isinstance(value, float) or _is_small(value, 10**DIGITS)


def _is_source(node: ast.expr) -> bool:
    """Whether this is an input, a part of one, or what a method without arguments says of it."""
    while True:
        if isinstance(node, ast.Subscript):
            index = _read_constant(node.slice)
            if not (is_identifier(index) if isinstance(index, str) else _is_small(index, 1 << 32)):
                return False
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in METHODS or node.args or node.keywords:
                return False
            node = node.func.value
        else:
            return isinstance(node, ast.Name) and node.id == "L"


def _read_constant(node: ast.expr) -> object:
    """The value of a constant, with its sign; None where it is none."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _read_constant(node.operand)
        return -value if isinstance(value, (int, float)) else None
    return node.value if isinstance(node, ast.Constant) else None


def _is_small(value: object, most: int) -> bool:
    return isinstance(value, int) and abs(value) <= most


def _is_short(value: object) -> bool:
    """Whether a text is a number that is no large exponent."""
    return isinstance(value, str) and bool(NUMBER.fullmatch(value)) and abs(float(value)) <= EXPONENT


def _show(node: ast.expr) -> str:
    try:
        text = ast.unparse(node)
    except RecursionError:
        return "too many operators within each other"
    return text if len(text) <= DIGITS else f"{text[:DIGITS]}…"
