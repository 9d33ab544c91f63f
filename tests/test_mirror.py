"""Each test stands where its subject stands: the folders of the tests are those of the code."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PACKAGE = ROOT / "prox24_export"
ELSEWHERE = {
    "benchmarks",
    "cli",
    "docs",
    "fuzz",
    "samples",
}  # beside the package, too, and the command as a user runs it
WHOLE = {
    "contributing",
    "edge_files",
    "imports",
    "mirror",
    "peer_bugs",
    "random_graphs",
    "rooms",
    "write_failures",
}  # tests of no single module


def files_of_tests(tests: Path) -> list[Path]:
    return sorted(file.relative_to(tests) for file in tests.rglob("test_*.py"))


def is_mirrored(file: Path) -> bool:
    """Whether a test file, named from the folder of the tests on, stands where code stands."""
    if file.parts[0] in ELSEWHERE:
        return True
    if len(file.parts) == 1:
        subject = file.stem.removeprefix("test_")
        return subject in WHOLE or (PACKAGE / f"{subject}.py").is_file()
    code = ROOT if file.parts[0] == "passes" else PACKAGE  # the passes lie beside the package
    return (code / file.parent / "__init__.py").is_file()


def imports_of_tests(file: Path) -> list[str]:
    """Test files that a file imports from: what two need belongs into a plain module beside them."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return [module for module in modules if module.rpartition(".")[2].startswith("test_")]


def test_each_test_file_stands_where_its_subject_stands() -> None:
    files = files_of_tests(TESTS)
    assert len(files) > 100
    assert [str(file) for file in files if not is_mirrored(file)] == []


@pytest.mark.parametrize("name", ["passes/test_x.py", "solver/test_x.py", "passes/refine/test_x.py", "test_shapes.py"])
def test_places_that_are_right(name: str) -> None:
    assert is_mirrored(Path(name))


@pytest.mark.parametrize(
    "name",
    ["validate/test_x.py", "refine/test_x.py", "passes/solver/test_x.py", "test_gates.py", "prox24_export/test_x.py"],
)
def test_the_test_of_places_can_fail(name: str) -> None:
    assert not is_mirrored(Path(name))


def test_no_test_file_imports_from_another() -> None:
    found = {str(file): imports_of_tests(TESTS / file) for file in files_of_tests(TESTS)}
    assert {file: modules for file, modules in found.items() if modules} == {}


def test_the_test_of_imports_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text("from tests.test_y import z\nfrom tests.graphs import model\n", encoding="utf-8")
    assert imports_of_tests(file) == ["tests.test_y"]
