"""What came of the mutants: killed, equivalent, or a gap in the tests.

    nox -s mutation

mutmut changes one expression at a time in the modules that `[tool.mutmut]` in pyproject.toml names, and runs the tests
that reach it. A mutant that every test passes either computes the same as the original, and then
`mutation_equivalent.toml` says why in one sentence, or it shows what no test holds: then this exits with 1. Writes
`results/mutation.json` and `results/mutation.md`.
"""

import ast
import difflib
import importlib.metadata
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Place = tuple[str, str, tuple[str, ...]]  # module, function, lines of the change
HERE = Path(__file__).parent
KILLED = {1, 3}  # pytest's exit codes: a test failed, or pytest itself did
TIMED_OUT = {24, 36, 152, 255}  # mutmut's: the tests took far longer than without the mutant
SURVIVED = 0


@dataclass(frozen=True)
class Mutant:
    """One changed expression: `change` has the lines that it takes away and puts in, as a diff writes them."""

    module: str
    function: str
    change: tuple[str, ...]
    code: int | None

    @property
    def place(self) -> Place:
        """What tells it from others, also after the modules around it have changed."""
        return self.module, self.function, self.change


def read_mutants(tree: Path) -> Iterator[Mutant]:
    """Every mutant of a tree that `mutmut run` has worked in."""
    for path in sorted((tree / "mutants").rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        source = path.with_suffix("").read_text(encoding="utf-8")
        functions = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
        for key, code in codes.items():
            name = key.rpartition(".")[2]
            stem = name.partition("__mutmut_")[0]
            change = difference(written(functions[f"{stem}__mutmut_orig"]), written(functions[name]))
            yield Mutant(key.rpartition(".")[0], original_name(stem), change, code)


def original_name(stem: str) -> str:
    """`function` or `Class.method`, as mutmut spells them `x_function` and `xǁClassǁmethod`."""
    return stem.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")


def written(function: ast.FunctionDef) -> list[str]:
    """A function's body, one statement a line, whatever its name."""
    return [line for node in function.body for line in ast.unparse(node).splitlines()]


def difference(before: list[str], after: list[str]) -> tuple[str, ...]:
    """The lines that differ."""
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    return tuple(line[0] + line[1:].strip() for line in lines if not line.startswith("@@"))


def read_equivalents() -> dict[Place, str]:
    """The changes that were looked at and found to compute the same, and why."""
    entries = tomllib.loads((HERE / "mutation_equivalent.toml").read_text(encoding="utf-8"))["equivalent"]
    return {
        (entry["module"], entry["function"], tuple(entry["change"].strip().splitlines())): entry["why"]
        for entry in entries
    }


def judge(mutants: Sequence[Mutant], named: Mapping[Place, str]) -> list[str]:
    """One paragraph for every mutant that is neither killed nor named, and for every name that is stale."""
    left = [mutant for mutant in mutants if mutant.code not in KILLED | TIMED_OUT]
    states = {
        mutant.place: "survived" if mutant.code == SURVIVED else f"was not judged (mutmut's code {mutant.code})"
        for mutant in left
        if mutant.place not in named
    }
    states |= dict.fromkeys(named.keys() - {mutant.place for mutant in left}, "is named as equivalent, but was killed")
    return [
        "\n    ".join([f"{module}.{function} {state}:", *change])
        for (module, function, change), state in states.items()
    ]


def summarise(mutants: Sequence[Mutant], named: Mapping[Place, str]) -> dict[str, Any]:
    """What is written as JSON: counts by module, and the equivalent mutants with their reasons."""
    rows = []
    for module in sorted({mutant.module for mutant in mutants}):
        codes = [mutant.code for mutant in mutants if mutant.module == module]
        killed, timed_out = (sum(code in known for code in codes) for known in (KILLED, TIMED_OUT))
        rows.append(
            {
                "module": module,
                "mutants": len(codes),
                "killed": killed,
                "timed_out": timed_out,
                "equivalent": len(codes) - killed - timed_out,
            }
        )
    return {
        "command": "nox -s mutation",
        "mutmut": importlib.metadata.version("mutmut"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "modules": rows,
        "equivalent": [
            {"module": module, "function": function, "change": change, "why": why}
            for (module, function, change), why in sorted(named.items())
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    lines = [
        "# Mutation testing",
        "",
        f"`{result['command']}`, mutmut {result['mutmut']}, {result['date']}. A mutant is the module with one",
        "expression changed; it is killed when a test of the module fails. Every survivor computes the same as the",
        "original, and is named below with the reason.",
        "",
        "| module | mutants | killed | timed out | equivalent |",
        "|---|---|---|---|---|",
        *(
            f"| `{row['module']}` | {row['mutants']} | {row['killed']} | {row['timed_out']} | {row['equivalent']} |"
            for row in result["modules"]
        ),
        "",
        "## Equivalent",
        "",
    ]
    for entry in result["equivalent"]:
        change = "\n".join(entry["change"])
        lines += [f"`{entry['module']}`, `{entry['function']}`: {entry['why']}", "", f"```diff\n{change}\n```", ""]
    return "\n".join(lines)


def main() -> int:
    """Reads the tree given and writes the results; 1 if a mutant is neither killed nor named, or a name is stale."""
    mutants = list(read_mutants(Path(sys.argv[1])))
    named = read_equivalents()
    gaps = judge(mutants, named)
    print("\n".join(gaps))
    print(f"{len(mutants)} mutants, {len(gaps)} to look at")
    if gaps or not mutants:
        return 1
    result = summarise(mutants, named)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    (HERE / "results" / "mutation.json").write_text(text, encoding="utf-8")
    (HERE / "results" / "mutation.md").write_text(table(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
