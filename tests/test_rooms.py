"""The house as its files and imports show it: the order of the rooms, their size, one meaning for each name."""

import ast
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.rooms import ORDER, PACKAGE, PASSES, TOP, House, read_house

ROOT = Path(__file__).resolve().parent.parent
CODE = {PACKAGE: ROOT / PACKAGE, PASSES: ROOT / "passes"}
MOST_ENTRIES = {"passes": 13, PACKAGE: 24}
NOT_COUNTED = {"__init__.py", "py.typed", "passes", "__pycache__"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


def violations(house: House, order: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Arrows that lead upwards, rooms without a place, and modules that import each other."""
    found = []
    for level, rooms in house.levels().items():
        places = {room: place for place, room in enumerate(order.get(level, ()))}
        found += [f"{level}.{room} has no place in the order" for room in sorted(rooms - places.keys())]
        found += [
            f"{arrow} upwards"
            for source, target, arrow in house.crossings(level)
            if places.get(source, 0) < places.get(target, 0)
        ]
    cycle = house.cycle()
    return [*found, *([f"cycle: {' → '.join(cycle)}"] if cycle else [])]


@pytest.fixture(scope="module")
def house() -> House:
    return read_house(CODE)


def test_no_arrow_leads_upwards_and_no_modules_import_each_other(house: House) -> None:
    assert violations(house, ORDER) == []


def test_the_order_names_no_room_that_is_gone(house: House) -> None:
    levels = house.levels()
    assert ORDER.keys() == levels.keys()
    for level, rooms in ORDER.items():
        assert set(rooms) - {TOP} == levels[level]


def written(folder: Path, files: Mapping[str, str]) -> House:
    for name, text in files.items():
        file = folder / "house" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return read_house({"house": folder / "house"})


ROOMS = {"__init__.py": "", "cellar/__init__.py": "", "cellar/wine.py": "", "attic.py": "from house.cellar import wine"}
BOTTOM_UP = {"house": ("cellar", "attic", TOP)}
UPWARDS = (
    "from house.attic import roof",
    "import house.attic",
    "from house import attic",
    "from .. import attic",
    "from ..attic import roof",
    "def late():\n    from house.attic import roof",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.attic import roof",
    "import importlib\nimportlib.import_module('house.attic')",
    "__import__('house.attic')",
    "from house import anything_of_the_top",
)


def test_a_house_in_order_has_no_violation(tmp_path: Path) -> None:
    assert violations(written(tmp_path, ROOMS), BOTTOM_UP) == []


@pytest.mark.parametrize("line", UPWARDS)
def test_the_test_of_arrows_can_fail(line: str, tmp_path: Path) -> None:
    house = written(tmp_path, ROOMS | {"cellar/wine.py": line, "attic.py": "roof = 1"})
    (found,) = violations(house, BOTTOM_UP)
    assert re.fullmatch(r"house\.cellar\.wine:\d imports house(\.attic)? upwards", found)


def test_the_test_of_cycles_can_fail_within_a_room(tmp_path: Path) -> None:
    circle = {"cellar/wine.py": "from house.cellar import beer", "cellar/beer.py": "from . import wine"}
    (found,) = violations(written(tmp_path, ROOMS | circle), BOTTOM_UP)
    assert found.startswith("cycle: house.cellar.")


def test_a_room_without_a_place_is_told(tmp_path: Path) -> None:
    found = violations(written(tmp_path, ROOMS | {"shed.py": ""}), BOTTOM_UP)
    assert found == ["house.shed has no place in the order"]


def entries(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} - NOT_COUNTED


@pytest.mark.parametrize(("folder", "most"), MOST_ENTRIES.items())
def test_the_top_of_a_package_is_seen_at_a_glance(folder: str, most: int) -> None:
    assert len(entries(ROOT / folder)) <= most


def python_files() -> list[Path]:
    folders = (ROOT / "passes", ROOT / PACKAGE, ROOT / "tests")
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return [file for file in files if not any(parent.is_symlink() for parent in file.parents)]


def long_modules(files: list[Path]) -> list[str]:
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    return [f"{file}: {count} lines" for file, count in lines.items() if count > MOST_LINES]


def long_functions(files: list[Path]) -> list[str]:
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                found += [f"{file}: {node.name} has {count} lines"] if count > MOST_LINES_OF_A_FUNCTION else []
    return found


def test_modules_and_functions_are_short() -> None:
    files = python_files()
    assert len(files) > 200
    assert long_modules(files) == []
    assert long_functions(files) == []


def test_the_tests_of_length_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text("def long():\n" + "    pass\n" * MOST_LINES)
    assert long_modules([file]) == [f"{file}: 401 lines"]
    assert long_functions([file]) == [f"{file}: long has 401 lines"]
    file.write_text("def short():\n" + "    pass\n" * (MOST_LINES_OF_A_FUNCTION - 1))
    assert long_modules([file]) == long_functions([file]) == []


def type_names(tree: ast.Module) -> Iterator[str]:
    """Classes and aliases of types that a module defines, private ones too; constants are written in capitals."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if name.lstrip("_")[:1].isupper() and not name.isupper():
                    yield name


def names_with_two_meanings(house: House) -> dict[str, list[str]]:
    """Modules by the name that each of them defines for itself, where there are several."""
    places: dict[str, list[str]] = {}
    for module, file in house.files.items():
        for name in set(type_names(ast.parse(file.read_text(encoding="utf-8")))):
            places.setdefault(name, []).append(module)
    return {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_class_or_alias_means_two_things(house: House) -> None:
    assert names_with_two_meanings(house) == {}


def test_the_test_of_meanings_can_fail(tmp_path: Path) -> None:
    doubled = {"cellar/wine.py": "class Shelf: ...", "attic.py": "Shelf = tuple[int, ...]", "barn.py": "SHELF = 1"}
    found = names_with_two_meanings(written(tmp_path, ROOMS | doubled))
    assert found == {"Shelf": ["house.attic", "house.cellar.wine"]}


def list_packages() -> set[str]:
    """Folders with modules in them, by the dotted name under which they are installed."""
    return {
        ".".join((name, *file.parent.relative_to(folder).parts))
        for name, folder in CODE.items()
        for file in folder.rglob("__init__.py")
        if not any(parent.is_symlink() for parent in file.parents)
    }


def test_every_folder_is_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert set(declared) == list_packages()
    assert len(declared) == len(set(declared)) > 20
