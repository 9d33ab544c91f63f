"""The judge of mutants: what is killed, what is a gap, what is named without need; and the committed result."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MUTATED = '''
def x_half__mutmut_orig(value):
    """Half."""
    return value / 2


def x_half__mutmut_1(value):
    """Half."""
    return value * 2


class Scale:
    def xǁScaleǁby__mutmut_orig(self, value):
        return value * self.factor

    def xǁScaleǁby__mutmut_1(self, value):
        return value / self.factor
'''


def judged(folder: Path, code: int | None) -> subprocess.CompletedProcess[str]:
    """The judge's verdict on a tree with two mutants, of which nothing is named as equivalent."""
    place = folder / "mutants" / "package"
    place.mkdir(parents=True)
    (place / "module.py").write_text(MUTATED, encoding="utf-8")
    codes = {"package.module.x_half__mutmut_1": code, "package.module.xǁScaleǁby__mutmut_1": code}
    (place / "module.py.meta").write_text(json.dumps({"exit_code_by_key": codes}), encoding="utf-8")
    script = folder / "mutation.py"
    script.write_bytes((BENCHMARKS / "mutation.py").read_bytes())
    (folder / "mutation_equivalent.toml").write_text("equivalent = []\n", encoding="utf-8")
    return subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("code", "state"), [(0, "survived"), (None, "was not judged"), (33, "was not judged")])
def test_a_mutant_that_no_test_killed_is_shown_and_fails(code: int | None, state: str, tmp_path: Path) -> None:
    done = judged(tmp_path, code)
    assert done.returncode == 1
    assert f"package.module.half {state}" in done.stdout
    assert "-return value / 2\n    +return value * 2" in done.stdout
    assert f"package.module.Scale.by {state}" in done.stdout
    assert "2 mutants, 2 to look at" in done.stdout


def test_a_tree_without_mutants_fails(tmp_path: Path) -> None:
    script = BENCHMARKS / "mutation.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is named as equivalent, but was killed" in done.stdout


def test_the_committed_result_counts_every_mutant_and_names_those_that_are_left() -> None:
    result = json.loads((BENCHMARKS / "results" / "mutation.json").read_text(encoding="utf-8"))
    named = tomllib.loads((BENCHMARKS / "mutation_equivalent.toml").read_text(encoding="utf-8"))["equivalent"]
    assert {row["module"].rpartition(".")[2] for row in result["modules"]} == {"verify_pattern", "pattern", "gates"}
    for row in result["modules"]:
        assert row["mutants"] == row["killed"] + row["timed_out"] + row["equivalent"]
        assert row["killed"] > 0.9 * row["mutants"]
    assert sum(row["equivalent"] for row in result["modules"]) == len(named) == len(result["equivalent"])
    assert all(entry["why"].endswith(".") for entry in result["equivalent"])
