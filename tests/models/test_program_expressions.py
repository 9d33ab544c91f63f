"""Sizes and conditions in programs: what torch writes is taken, and anything else is refused before it is evaluated."""

import contextlib
import importlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._sympy import functions

from prox24_export.models.program_expressions import (
    EXPONENT,
    FUNCTIONS,
    LONGEST,
    UnknownCodeError,
    expect_expression,
    expect_guard,
    has_range,
    is_symbol,
)

sympy: Any = importlib.import_module("sympy")  # it has no types
SIZE = "Symbol('s77', positive=True, integer=True)"
WRITTEN = [
    SIZE,
    "Integer(-1)",
    "true",
    f"Add(FloorDiv(Add({SIZE}, Integer(-1)), Integer(2)), Integer(1))",
    f"Max(Integer(1), TruncToInt(Mul(Float('1.5', precision=53), ToFloat({SIZE}))))",
    f"Pow({SIZE}, Integer(2))",
    f"Pow({SIZE}, Rational(1, 2))",
    f"LessThan(Symbol('u0', integer=True), {SIZE})",
    f"Mod({SIZE}, Integer(2))",
    f"Pow(Add({SIZE}, Integer(1)), Integer(3))",
    f"Mul({', '.join([f'Add({SIZE}, Integer(1))'] * 6)})",
    "Add(FloorDiv(Add(" * 20 + SIZE + ", Integer(-1)), Integer(2)), Integer(1))" * 20,
]
GUARDS = [
    "L['input_ids'].size()[1] <= 512",
    "(-1)*(((-1)*L['x'].size()[0]) // 4) >= 0 and (-1)*(((-1)*L['x'].size()[0]) // 4) <= L['x'].size()[0]",
    "math.trunc(1.5*torch.sym_float(1 + (((-1) + L['x'].size()[2]) // 2))) != 1",
    "max(1, min(L['x'].size()[0], (2*(L['x'].size()[0] // 2)) % 5)) == 1",
    "L['args'][0]['x'].size()[0]**2 != 9 and not L['y'].item()",
    "L['x'].stride()[0] == (2 if L['x'].numel() > 4 else 1)",
]
EXPRESSIONS_OF_CODE = [
    "",
    "s77",
    "1 + 1",
    "Integer('1')",
    "Integer(1.0)",
    "Integer(__import__('os'))",
    "Symbol('x')",
    "Symbol('s77', other=True)",
    "Symbol('s77', integer=Integer(1))",
    "Symbol('s7' 'x')",
    "Float('1e999999999')",
    "Float('inf')",
    "Add(*Integer(1))",
    "Add(Integer(1), evaluate=False)",
    "Add.func(Integer(1))",
    "Lambda(Integer(1))",
    "Function('open')(Integer(1))",
    f"Pow(Integer(9), {SIZE})",
    f"Pow(Pow({SIZE}, Integer(60)), Integer(60))",
    "LShift(Integer(1), Integer(1000000))",
    f"Pow(Add({SIZE}, Integer(1)), Integer(5))",
    f"Pow(Add({SIZE}, Symbol('s0'), Symbol('s1')), Float('3.5'))",
    f"Mul({', '.join([f'Add({SIZE}, Integer(1))'] * 7)})",
    f"Max({', '.join(f'Integer({index})' for index in range(17))})",
    f"Integer({'9' * 50})",
    "Add(" * 70 + "Integer(1)" + ")" * 70,
    "-" * 3000 + "Integer(1)",
    f"Add({', '.join(['Integer(1)'] * LONGEST)})",
    "Integer(1)\n",
    "Integer(１)",
]
GUARDS_OF_CODE = [
    "",
    "x == 1",
    "L['x'].size",
    "L['x'].size(0)",
    "L['x'].__class__",
    "L['x' + 'y']",
    "L['x y'] == 1",
    "L[L['x']] == 1",
    "open('marker', 'w')",
    "math.__loader__",
    "torch.load('x')",
    "torch.sym_max.__globals__['x']",
    "max(key=1)",
    "[1 for x in (1,)]",
    "lambda: 1",
    "'text' == 1",
    "9**9**9 == 1",
    "L['x'].size()[0]**99 == 1",
    "L['x'].size()[0]**L['x'].size()[1] == 1",
    "1 << 99999999999 == 1",
    "1 == 1; 2",
    "(" * 500 + "1" + ")" * 500,
    " + ".join(["1"] * 2000),
    "(x := 1) == 1",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_torch_writes_is_taken(text: str) -> None:
    expect_expression(text)
    names = {name: getattr(functions, name) for name in FUNCTIONS if hasattr(functions, name)}
    assert sympy.sympify(text, locals=names).free_symbols <= {*sympy.sympify(SIZE).free_symbols, *symbols()}


def symbols() -> set[Any]:
    return {sympy.Symbol("u0", integer=True)}


@pytest.mark.parametrize("text", GUARDS)
def test_conditions_that_torch_writes_are_taken(text: str) -> None:
    expect_guard(text)


@pytest.mark.parametrize("text", [*EXPRESSIONS_OF_CODE, *GUARDS])
def test_what_is_no_expression_of_sizes_is_refused(text: str) -> None:
    with pytest.raises(UnknownCodeError) as told:
        expect_expression(text)
    assert len(str(told.value)) < 80


@pytest.mark.parametrize("text", [*GUARDS_OF_CODE, SIZE])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UnknownCodeError) as told:
        expect_guard(text)
    assert len(str(told.value)) < 80


def test_names_of_symbols() -> None:
    assert all(map(is_symbol, ("s0", "s77", "u12", "zf3", "zuf0")))
    assert not any(map(is_symbol, ("", "s", "x", "s0.x", "S0", "s0\n", "u12345678", "s" + "1" * 30)))
    assert all(map(has_range, ("s0", "2*s77", "s0 + s1", "Max(1, s0)", "u0")))
    assert not any(map(has_range, ("", "u99999999", "u0 + 1", "open('x')", "s0\n", "s" * 1000)))
    assert EXPONENT == 64


TEXTS = st.lists(st.sampled_from([*"()',.=-*/[]", "Integer", "Add", "Pow", "L", "s0", "size", "1", "99", " ", "x"]))


@settings(max_examples=300)
@given(st.one_of(TEXTS.map("".join), st.text(max_size=30)))
def test_any_text_is_taken_or_refused(text: str) -> None:
    for expect in (expect_expression, expect_guard):
        with contextlib.suppress(UnknownCodeError):
            expect(text)
