"""A model under a name of its own and its report: both appear, or neither; only what a run wrote is replaced."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prox24_export.errors import InputError, Prox24Error
from prox24_export.output import beside, exchange
from prox24_export.output.destination import ABOVE, Destination, list_beside
from prox24_export.output.place import take_place
from tests.command import snapshot

NEW = {"x-report": None, "x-report/report.json": b"", "x.onnx": b"new"}
Steps = list[tuple[str, str]]


def report_of(*names: str) -> str:
    return json.dumps({"tool": "prox24-export", "files": ["report.json", *(ABOVE + name for name in names)]})


def write(
    folder: Path, text: str = "new", *, force: bool = False, data: bool = False, meanwhile: Callable[[], object] = int
) -> None:
    """A run with `-o x.onnx` in a folder; with `data` it writes external data, too."""
    goal = Destination.read(folder / "x.onnx")
    assert goal.model is not None
    with take_place(goal.folder, force=force, model=goal.model) as work:
        models = beside.find_model_folder(work, goal.model)
        names = ["x.onnx", *(["x.onnx.data"] if data else [])]
        for name in names:
            (models / name).write_text(text, "utf-8")
        (work / "report.json").write_text(report_of(*names), "utf-8")
        meanwhile()


def contents(folder: Path) -> dict[str, bytes | None]:
    return {name: b"" if name.endswith("report.json") else content for name, content in snapshot(folder).items()}


def test_a_name_of_a_model_is_told_from_that_of_a_folder() -> None:
    assert Destination.read("a/x.onnx") == Destination(Path("a/x-report"), Path("a/x.onnx"))
    assert Destination.read("x.v2.ONNX").folder == Path("x.v2-report")
    assert Destination.read("a/x.onnx").files == (Path("a/x.onnx"), Path("a/x.onnx.data"))
    for name in ("out", "x.onnx.d", ".onnx", "x.onnx/out"):
        assert Destination.read(name) == Destination(Path(name))
    assert list_beside(["report.json", "../x.onnx", "../..", "../../etc/passwd", "..", "../"]) == ["x.onnx"]


def test_model_and_report_appear_and_nothing_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "new", data=True)
    assert contents(tmp_path / "new") == NEW | {"x.onnx.data": b"new"}


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "new", meanwhile=lambda: 1 // 0)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("data", [True, False])
def test_an_earlier_run_is_replaced_as_a_whole_and_only_by_force(data: bool, tmp_path: Path) -> None:
    write(tmp_path, "old", data=True)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"x\.onnx is there already\. Replace it with --force, or choose another name"):
        write(tmp_path)
    assert snapshot(tmp_path) == before
    write(tmp_path, force=True, data=data)
    assert contents(tmp_path) == NEW | ({"x.onnx.data": b"new"} if data else {})


@pytest.mark.parametrize("name", ["x.onnx", "x.onnx.data"])
def test_a_file_that_no_run_wrote_is_not_even_replaced_by_force(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine", "utf-8")
    with pytest.raises(InputError, match=rf"{re.escape(name)} is there already.*not even --force replaces it"):
        write(tmp_path, force=True)
    assert snapshot(tmp_path) == {name: b"mine"}


def test_names_that_cannot_be_taken_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(InputError, match=r"x\.onnx is a folder, and a name that ends in \.onnx is that of a file"):
        write(tmp_path)
    (tmp_path / "x.onnx").rmdir()
    (tmp_path / "x-report").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"x-report is a link, and the report of .*x\.onnx goes there"):
        write(tmp_path)


def test_a_run_into_the_folder_and_one_with_the_model_beside_it_exclude_each_other(tmp_path: Path) -> None:
    with take_place(tmp_path / "x-report", force=False), pytest.raises(InputError, match="another run is writing"):
        write(tmp_path)


def test_a_file_that_comes_meanwhile_stays_and_the_run_gets_a_free_name(tmp_path: Path) -> None:
    with pytest.raises(Prox24Error, match=r"x\.onnx is there already.*The finished run is in .*x-report-2\.$"):
        write(tmp_path, meanwhile=lambda: (tmp_path / "x.onnx").write_text("mine", "utf-8"))
    assert contents(tmp_path) == {
        "x.onnx": b"mine",
        "x-report-2": None,
        "x-report-2/report.json": b"",
        "x-report-2/x.onnx": b"new",
    }


def note_steps(monkeypatch: pytest.MonkeyPatch, fail_at: int, error: type[BaseException], *, at_once: bool) -> Steps:
    """Has the given step of those that put everything into place fail, and notes which were taken."""
    steps: Steps = []
    rename = exchange.rename_to_free

    def fail(source: Path, target: Path) -> None:
        if len(steps) == fail_at:
            raise error("device busy")
        rename(source, target)
        steps.append((source.parent.name, target.name))

    monkeypatch.setattr(beside, "rename_to_free", fail)
    if not at_once:
        monkeypatch.setattr(exchange, "_rename_at_once", lambda *_: False)
    return steps


ALL = [
    ("", "x.onnx"),
    ("", "x.onnx.data"),
    ("", "x-report"),
    *(("ready", name) for name in ("x.onnx.data", "x-report")),
]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("step", range(6))
def test_where_a_step_fails_everything_comes_back_and_the_finished_run_is_kept(
    step: int, at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "old", data=True)
    before = snapshot(tmp_path)
    taken = note_steps(monkeypatch, step, OSError, at_once=at_once)
    with pytest.raises(Prox24Error, match=r"device busy.*The finished run is in .*x-report-2\.$"):
        write(tmp_path, force=True, data=True)
    assert [(folder if folder == "ready" else "", name) for folder, name in taken] == ALL[:step]
    kept = {f"x-report-2/{name}": b"new" for name in ("x.onnx", "x.onnx.data")}
    now = snapshot(tmp_path)
    assert {name: now.pop(name) for name in kept} == kept
    assert {name: content for name, content in now.items() if not name.startswith("x-report-2")} == before


class Killed(BaseException):
    """A run that ends between two steps and cleans nothing up."""


def kill_at(step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves what a run leaves that is killed before the given step."""
    goal = Destination.read(folder / "x.onnx")
    with monkeypatch.context() as patched:
        note_steps(patched, step, Killed, at_once=True)
        (folder / "x-report.lock").write_text("prox24-export machine 1\n", "utf-8")  # no process holds it
        work = folder / "x-report.unfinished" / "run"
        for place in (work, models := beside.find_model_folder(work, goal.model)):
            place.mkdir(parents=True)
        for name in ("x.onnx", "x.onnx.data"):
            (models / name).write_text("new", "utf-8")
        (work / "report.json").write_text(report_of("x.onnx", "x.onnx.data"), "utf-8")
        work.rename(models / "x-report")
        models.rename(work.with_name("ready"))
        with pytest.raises(Killed):
            beside.finish_settling(work.parent, goal)


@pytest.mark.parametrize(
    ("step", "earlier"), [*((step, True) for step in range(6)), *((step, False) for step in range(3))]
)
def test_what_a_killed_run_had_begun_to_put_into_place_is_finished_by_the_next(
    step: int, earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if earlier:
        write(tmp_path, "old", data=True)
    kill_at(step, tmp_path, monkeypatch)
    if (tmp_path / "x.onnx").exists():  # whoever finds a model finds all that belongs to it
        assert (tmp_path / "x.onnx.data").read_bytes() == (tmp_path / "x.onnx").read_bytes()
    with pytest.raises(InputError, match=r"x\.onnx is there already\. Replace it with --force"):
        write(tmp_path)
    assert contents(tmp_path) == NEW | {"x.onnx.data": b"new"}


def test_what_somebody_puts_into_the_place_of_a_killed_run_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(1, tmp_path, monkeypatch)
    (tmp_path / "x.onnx").write_text("mine", "utf-8")
    with pytest.raises(OSError, match=r"x\.onnx is in the way"):
        write(tmp_path, force=True)
    assert (tmp_path / "x.onnx").read_text("utf-8") == "mine"


def test_only_a_free_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(exchange, "_rename_at_once", lambda *_: False)
        with pytest.raises(FileExistsError, match="b is in the way"):
            exchange.rename_to_free(tmp_path / "a", tmp_path / "b")
        exchange.rename_to_free(tmp_path / "a", tmp_path / "c")
        os.rename(tmp_path / "c", tmp_path / "a")  # noqa: PTH104 - the system's own
