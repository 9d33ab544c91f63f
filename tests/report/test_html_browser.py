"""`report.html` in headless Chromium: sorted, filtered, reached by keyboard, read by axe-core; and how fast it opens.

Needs `chromium` and `node` on PATH, and the npm packages playwright-core and axe-core in the folder that
PROX24_NODE_MODULES names. PROX24_SCREENSHOTS names a folder for pictures of the page, to be looked at.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prox24_export.report.html import render
from tests.report.example import layer, nothing_eligible, with_budget
from tests.report.html_example import build, engine, masks

SCRIPT = Path(__file__).with_name("browser.mjs")
KINDS = ["light-1280", "light-390", "dark-1280", "dark-390"]
HOSTILE = '<img src=x onerror="document.title=1">\'&"'
Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Opens a page in the browser; says what browser.mjs found."""
    modules = os.environ.get("PROX24_NODE_MODULES", "")
    chromium, node = shutil.which("chromium"), shutil.which("node")
    if chromium is None or node is None:
        pytest.skip("chromium or node is not on PATH")
    if not all((Path(modules) / name).is_dir() for name in ("playwright-core", "axe-core")) or not modules:
        pytest.skip("PROX24_NODE_MODULES names no folder with playwright-core and axe-core")

    def opened(page: str, *parts: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("page")
        (folder / "report.html").write_text(page, encoding="utf-8")
        command = [node, str(SCRIPT), chromium, str(folder / "report.html"), *parts]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return opened


@pytest.fixture(scope="module")
def found(look: Look) -> dict[str, Any]:
    """The example with everything."""
    return look(render(with_budget(build()), masks(build())), "use", "keyboard", "look")


def test_nothing_is_logged_and_nothing_but_the_file_is_asked_for(found: dict[str, Any]) -> None:
    assert found["errors"] == []
    assert {address.partition(":")[0] for address in found["requests"]} == {"file"}


def test_a_script_that_is_not_ours_is_not_run(look: Look) -> None:
    """And what a page logs would be seen."""
    stranger = "<script>document.querySelector('#layers').remove();</script></main>"
    found = look(render(build()).replace("</main>", stranger), "use")
    assert found["order"] == [entry.name for entry in build().layers]
    assert any("Content Security Policy" in line for line in found["errors"])


def test_axe_finds_no_violation(found: dict[str, Any]) -> None:
    assert found["violations"] == {kind: [] for kind in KINDS}


def test_axe_would_find_one(look: Look) -> None:
    broken = (
        render(build()).replace('<label for="filter">Filter</label>', "").replace('placeholder="name', 'title="" x="')
    )
    impacts = {entry["id"]: entry["impact"] for entry in look(broken, "glance")["violations"]["light-1280"]}
    assert impacts["label"] == "critical"


def test_nothing_is_wider_than_the_window(found: dict[str, Any]) -> None:
    assert found["overflow"] == dict.fromkeys(KINDS, 0)


def test_the_answers_are_on_the_first_screen(found: dict[str, Any]) -> None:
    assert len(found["firstScreen"]) == 4
    assert max(found["firstScreen"]) <= 800


def test_the_toggle_goes_to_dark_and_back(found: dict[str, Any]) -> None:
    light, dark, again = found["background"]
    assert light == again != dark


def test_columns_sort_by_their_values(found: dict[str, Any]) -> None:
    report = build()
    errors = sorted(100 * (entry.relative_error or 0) for entry in report.sparse_layers)
    for direction, expected in (("ascending", errors), ("descending", errors[::-1])):
        told = found["sorted"][direction]
        assert told["aria"] == [["Error", direction]]
        shown, empty = told["values"][: len(errors)], told["values"][len(errors) :]
        assert [float(value.removesuffix(" %")) for value in shown] == pytest.approx(expected, rel=5e-3)
        assert set(empty) == {""}  # dense layers stay last
    names = [entry.name for entry in report.layers]
    assert found["order"] == found["sorted"]["network"] == names
    assert sorted(found["sorted"]["names"]) == sorted(names)
    numbers = [int(name.split(".")[1].split("/")[0]) for name in found["sorted"]["names"]]
    assert numbers == sorted(numbers)  # 2 before 10


def test_every_word_of_the_filter_counts(found: dict[str, Any]) -> None:
    expected = [entry.name for entry in build().sparse_layers if "q_proj" in entry.name]
    assert found["filtered"] == {"names": expected, "shown": f"{len(expected)} of 98 layers"}


def test_states_filter(found: dict[str, Any]) -> None:
    counts = {state: int(shown.partition(" ")[0]) for state, shown in found["states"].items()}
    assert counts == {"": 98, "sparse": 74, "dense": 24, "budget": 1, "missed": 49}


def test_the_chosen_mask_is_drawn_entry_by_entry(found: dict[str, Any]) -> None:
    given = masks(build())
    assert found["masks"]["options"] == list(given)
    for place, which in ((0, "first"), (-1, "last")):
        name, mask = list(given.items())[place]
        shown = found["masks"][which]
        drawn = {tuple(map(int, part.partition("h")[0].split())) for part in shown["path"].split("M")[1:]}
        assert drawn == {(x, y) for y, x in zip(*mask[:64, :64].nonzero(), strict=True)}
        assert shown["words"] == shown["label"]
        assert shown["words"].startswith(f"Mask of {name}: the first 64 × 64 entries of 96 × 96; 50.0 %")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(found: dict[str, Any]) -> None:
    keyboard = found["keyboard"]
    assert keyboard["reached"] == keyboard["wanted"] > 20
    assert set(keyboard["outlines"]) == {"solid"}
    assert (keyboard["sorted"], keyboard["theme"]) == ("ascending", "dark")


def test_less_motion_where_it_is_asked_for(found: dict[str, Any]) -> None:
    assert found["smooth"] == "auto"


@pytest.mark.parametrize("state", ["nothing eligible", "no engine"])
def test_smaller_reports_are_sound_too(look: Look, state: str) -> None:
    report = nothing_eligible() if state == "nothing eligible" else build(engine=None, estimate=None, accuracy=None)
    found = look(render(report), "use", "look")
    assert found["errors"] == []
    assert found["violations"] == {kind: [] for kind in KINDS}
    assert found["overflow"] == dict.fromkeys(KINDS, 0)


def test_names_with_markup_or_without_end_do_no_harm(look: Look) -> None:
    layers = (replace(layer(0), name=HOSTILE), replace(layer(1), name="x" * 400), replace(layer(2), weight="y/" * 200))
    report = build(layers=layers)
    report = replace(report, engine=engine(report), output=replace(report.output, path="z" * 300))
    found = look(render(report, masks(report)), "use", "widths")
    assert found["errors"] == []
    assert found["order"][0] == found["masks"]["options"][0] == HOSTILE
    assert found["overflow"] == dict.fromkeys(KINDS, 0)


def test_two_thousand_layers_open_at_once(look: Look, record_property: Callable[[str, Any], None]) -> None:
    report = with_budget(build(2000))
    page = render(report, masks(report))
    seconds = look(page, "time")["seconds"]
    print(f"2,000 layers: {len(page.encode()) / 1e6:.2f} MB, {json.dumps(seconds)}")  # noqa: T201 (a measured figure)
    record_property("seconds", seconds)
    assert seconds["load"] < 5  # it takes a third of a second; machines under load take longer
    assert seconds["filter"] < 1
