"""The page of the architecture names every room of the tree, and no file that is not there."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.docs.markdown_pages import ROOT
from tests.rooms import ORDER, PACKAGE, PASSES

PAGE = ROOT / "docs" / "architecture.md"
NOT_ROOMS = {"__init__", "__main__", "__pycache__", "passes", "py"}
LEVELS = pytest.mark.parametrize("level", ["passes", "prox24_export"])


def rooms(folder: Path) -> set[str]:
    """Folders with modules in them, and loose modules, of the tree."""
    entries = [entry for entry in folder.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()]
    return {entry.stem for entry in entries} - NOT_ROOMS


def code_map(text: str, level: str) -> str:
    return text.split(f"<!-- map: {level} -->")[1].split("\n\n", maxsplit=1)[0]


def mapped_rooms(text: str, level: str) -> set[str]:
    """Rooms in the first column of a code map."""
    first = [row.split("|")[1] for row in code_map(text, level).splitlines() if row.startswith("| `")]
    return set(re.findall(r"`(\w+)(?:/|\.py)`", " ".join(first))) - NOT_ROOMS


def ordered_rooms(text: str, level: str) -> list[str]:
    """Rooms of the declared order, from the bottom to the top."""
    order = text.split(f"<!-- order: {level} -->")[1].split("<!-- end of order -->", maxsplit=1)[0]
    return re.findall(r"`(\w+)`", order)


def lost_files(text: str) -> Iterable[str]:
    """Files and folders that the page names and the tree does not have."""
    for row in (row for level in ("passes", "prox24_export") for row in code_map(text, level).splitlines()):
        room = re.match(r"\| `(\w+/)`", row)
        for name in re.findall(r"`([\w/]+(?:/|\.py))`", row):
            places = [ROOT / "passes", ROOT / "prox24_export"]
            places += [place / room[1] for place in places] if room else []
            if not any((place / name).exists() for place in places):
                yield name
    for name in re.findall(r"`((?:tests|samples|benchmarks|docs|passes|prox24_export|stages)/[\w/.]*)`", text):
        if not (ROOT / name).exists() and not (ROOT / "prox24_export" / name).exists():
            yield name


def test_files_that_are_named_are_there() -> None:
    assert not list(lost_files(PAGE.read_text(encoding="utf-8")))


def test_a_file_that_is_not_there_is_found() -> None:
    text = (
        PAGE.read_text(encoding="utf-8")
        .replace("`layout.py`", "`lay_out.py`")
        .replace("`samples/ci/`", "`samples/cy/`")
    )
    assert list(lost_files(text)) == ["lay_out.py", "samples/cy/"]


@LEVELS
def test_every_room_is_on_the_map(level: str) -> None:
    assert mapped_rooms(PAGE.read_text(encoding="utf-8"), level) == rooms(ROOT / level)


@pytest.mark.parametrize("level", ORDER)
def test_every_declared_order_is_on_the_page(level: str) -> None:
    label = level.removeprefix(f"{PACKAGE}.")
    declared = [room for room in ORDER[level] if not room.startswith("__")]
    assert ordered_rooms(PAGE.read_text(encoding="utf-8"), label) == declared


def test_two_rooms_that_changed_places_are_found() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("`calibrate`, `sparsify`", "`sparsify`, `calibrate`")
    assert ordered_rooms(text, "passes").index("sparsify") < ORDER[PASSES].index("sparsify")


def test_a_room_that_is_not_on_the_map_is_found() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("| `refine/` |", "| `refined/` |")
    assert mapped_rooms(text, "passes") ^ rooms(ROOT / "passes") == {"refine", "refined"}


def test_the_picture_names_the_passes() -> None:
    picture = (ROOT / "docs" / "assets" / "walk.svg").read_text(encoding="utf-8")
    drawn = {name for title in re.findall(r'class="t"[^>]*>([^<]*)<', picture) for name in re.findall(r"\w+", title)}
    assert rooms(ROOT / "passes") - drawn == {"graph", "onnx_to_fx"}  # what the others speak of, and the gradients
