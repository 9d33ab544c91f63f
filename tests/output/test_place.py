"""The output folder appears whole or not at all, and takes nothing with it that no run wrote."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from prox24_export.errors import InputError, Prox24Error
from prox24_export.output import exchange
from prox24_export.output import place as place_module
from prox24_export.output.place import make_scratch, take_place
from tests.command import snapshot


def finished_run(folder: Path, text: str = "earlier") -> Path:
    folder.mkdir(parents=True)
    files = ["report.json", "model.onnx", "engines/dense.engine"]
    (folder / "report.json").write_text(json.dumps({"tool": "prox24-export", "files": files}), "utf-8")
    (folder / "model.onnx").write_text(text, "utf-8")
    (folder / "engines").mkdir()
    (folder / "engines" / "dense.engine").touch()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(
    out: Path,
    *,
    force: bool = True,
    meanwhile: Callable[[], object] = lambda: None,
    fails: type[BaseException] | None = None,
) -> None:
    with take_place(out, force=force) as work:
        (work / "fresh").write_text("new", "utf-8")
        meanwhile()
        if fails:
            raise fails


def test_a_folder_appears_with_what_was_written_and_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "new" / "out")
    assert snapshot(tmp_path) == {"new": None, "new/out": None, "new/out/fresh": b"new"}


def test_while_the_run_works_its_lock_and_its_folder_stand_beside_the_output(tmp_path: Path) -> None:
    with take_place(tmp_path / "out", force=False) as work:
        assert work == tmp_path / "out.unfinished" / "run"
        assert names(tmp_path) == ["out.lock", "out.unfinished"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_nothing_is_left_when_the_block_fails_not_even_new_parents(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(error):
        write(tmp_path / "there" / "new" / "newer" / "out", fails=error)
    assert snapshot(tmp_path) == before


def test_an_earlier_run_stays_as_it_was_when_the_block_fails(tmp_path: Path) -> None:
    finished_run(tmp_path / "out")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"^$"):
        write(tmp_path / "out", fails=ValueError)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("at_once", [True, False])
def test_an_earlier_run_is_replaced_as_a_whole(at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not at_once:
        monkeypatch.setattr(exchange, "_exchange_at_once", lambda *_: False)
    finished_run(tmp_path / "out")
    write(tmp_path / "out")
    assert snapshot(tmp_path) == {"out": None, "out/fresh": b"new"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such step, or another name for it")
def test_where_folders_can_be_exchanged_one_of_them_is_always_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = finished_run(tmp_path / "left", "left"), finished_run(tmp_path / "right", "right")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("one of them was away for a moment"))
    exchange.exchange(left, right)
    assert ((left / "model.onnx").read_text("utf-8"), (right / "model.onnx").read_text("utf-8")) == ("right", "left")


@pytest.mark.parametrize("failing", [1, 2])
def test_an_earlier_run_comes_back_when_the_new_folder_cannot_take_its_place(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path / "out")
    before = snapshot(tmp_path)
    calls = 0
    rename = Path.rename

    def fails_once(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError("device busy")
        return rename(self, target)

    monkeypatch.setattr(exchange, "_exchange_at_once", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(Prox24Error, match=r"device busy.*The finished run is in .*out-2"):
        write(tmp_path / "out")
    assert calls >= failing
    now = snapshot(tmp_path)
    assert now.pop("out-2/fresh") == b"new"
    assert now.pop("out-2", "") is None
    assert now == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_permissions_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == mode


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    finished_run(tmp_path / "real")
    (tmp_path / "out").symlink_to("real")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert snapshot(tmp_path / "real") == {"fresh": b"new"}


def test_a_folder_that_appears_meanwhile_stays_and_the_result_gets_a_free_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "out-2").touch()

    def put_into_place() -> None:
        out.mkdir()
        (out / "precious").write_text("of somebody else", "utf-8")

    with pytest.raises(Prox24Error, match=r"The finished run is in .*out-3\.$"):
        write(out, force=False, meanwhile=put_into_place)
    assert (out / "precious").read_text("utf-8") == "of somebody else"
    assert snapshot(tmp_path / "out-3") == {"fresh": b"new"}
    assert names(tmp_path) == ["out", "out-2", "out-3"]


def test_a_file_that_comes_into_an_earlier_run_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "out")
    with pytest.raises(Prox24Error, match=r"holds notes beside a finished run"):
        write(out, meanwhile=lambda: (out / "notes").write_text("mine", "utf-8"))
    assert (out / "notes").read_text("utf-8") == "mine"
    assert snapshot(tmp_path / "out-2") == {"fresh": b"new"}


def test_a_second_run_is_refused_before_it_writes_anything(tmp_path: Path) -> None:
    with take_place(tmp_path / "out", force=False):
        before = snapshot(tmp_path)
        with pytest.raises(InputError, match=r"another run is writing .*out\. Wait until it ends"):
            write(tmp_path / "out")
        assert snapshot(tmp_path) == before


def test_what_a_clean_up_could_not_remove_is_removed_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        write(tmp_path / "out")
    assert names(tmp_path) == ["out", "out.lock", "out.unfinished"]
    finished_run(tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / "out.unfinished" / "run")
    shutil.rmtree(tmp_path / "out")
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_refused_run_gives_nobody_the_right_to_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "precious").touch()
    before = snapshot(tmp_path)
    for _ in range(2):
        with pytest.raises(InputError, match="is in the way of the output"):
            write(tmp_path / "out")
        assert snapshot(tmp_path) == before


def test_a_folder_called_replaced_is_ours_only_if_it_is_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "out.lock").write_text("prox24-export machine 1\n", "utf-8")
    finished_run(tmp_path / "out.replaced")
    (tmp_path / "out.replaced" / "precious").touch()
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"out\.replaced is in the way"):
        write(tmp_path / "out")
    assert {name: content for name, content in snapshot(tmp_path).items() if name != "out.lock"} == {
        name: content for name, content in before.items() if name != "out.lock"
    }


@pytest.mark.parametrize("error", [PermissionError("of another user"), NotADirectoryError("a file"), OSError("full")])
def test_a_finished_run_that_cannot_take_its_place_is_kept(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("prox24_export.output.place._replace", fail)
    with pytest.raises(Prox24Error, match=r"The finished run is in .*out-2\."):
        write(tmp_path / "out")
    assert snapshot(tmp_path / "out-2") == {"fresh": b"new"}
    assert names(tmp_path) == ["out-2"]


def test_a_file_that_came_at_the_very_last_moment_is_kept_with_the_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished_run(tmp_path / "out")
    swap = exchange.exchange

    def exchange_late(left: Path, right: Path) -> None:
        (right / "notes").write_text("mine", "utf-8")
        swap(left, right)

    monkeypatch.setattr(place_module, "exchange", exchange_late)
    write(out)
    assert snapshot(out) == {"fresh": b"new"}
    assert (tmp_path / "out-2" / "notes").read_text("utf-8") == "mine"
    assert "the earlier run is kept in" in capsys.readouterr().err


LEFT: Sequence[tuple[str, ...]] = [(), ("out.unfinished",), ("out.unfinished", "out.replaced")]


@pytest.mark.parametrize("left", LEFT)
def test_what_a_killed_run_has_left_is_removed_by_the_next(left: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "out.lock").write_text("prox24-export machine 1\n", "utf-8")  # no process holds it
    for name in left:
        finished_run(tmp_path / name)
    write(tmp_path / "out")
    assert snapshot(tmp_path) == {"out": None, "out/fresh": b"new"}


def test_a_run_that_was_killed_between_the_two_steps_comes_back(tmp_path: Path) -> None:
    (tmp_path / "out.lock").write_text("prox24-export machine 1\n", "utf-8")
    finished_run(tmp_path / "out.replaced")
    with pytest.raises(InputError, match="holds a finished run"):
        write(tmp_path / "out", force=False)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "model.onnx").read_text("utf-8") == "earlier"


@pytest.mark.parametrize("name", ["out.unfinished", "out.replaced"])
def test_without_a_lock_of_ours_what_has_these_names_is_somebody_elses(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").touch()
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=rf"{name} is in the way of the output"):
        write(tmp_path / "out")
    assert snapshot(tmp_path) == before


def test_everything_is_on_the_disk_before_it_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(handle: int) -> None:
        synced.append(os.path.relpath(Path(f"/proc/self/fd/{handle}").readlink(), tmp_path))
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    write(tmp_path / "out")
    assert synced == ["out.unfinished/run/fresh", "out.unfinished/run", "."]


def test_a_scratch_folder_vanishes_however_its_block_ends(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with make_scratch(tmp_path / "run") as scratch:
        (scratch / "file").touch()
        assert scratch.parent == tmp_path
    with pytest.raises(KeyboardInterrupt), make_scratch(tmp_path / "run"):
        raise KeyboardInterrupt
    assert snapshot(tmp_path) == {"run": None}
