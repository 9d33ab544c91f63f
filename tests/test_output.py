"""The output folder appears whole or not at all, and takes nothing with it that it did not write."""

import os
import re
from pathlib import Path

import pytest

from prox24_export import output
from prox24_export.errors import InputError
from tests.command import snapshot

OURS = '{"tool": "prox24-export"}'


def earlier(folder: Path, report: str = OURS) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(report, "utf-8")
    (folder / "model.onnx").write_text("earlier", "utf-8")
    return folder


def write(out: Path, text: str = "new", fails: type[BaseException] | None = None) -> None:
    with output.replace_folder(out) as work:
        assert not (out / "fresh").exists()
        (work / "fresh").write_text(text, "utf-8")
        if fails:
            raise fails


def test_a_folder_appears_with_what_was_written_and_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "new" / "out")
    assert snapshot(tmp_path) == {"new": None, "new/out": None, "new/out/fresh": b"new"}


def test_it_is_not_there_before_the_block_ends(tmp_path: Path) -> None:
    with output.replace_folder(tmp_path / "out") as work:
        assert work.parent == tmp_path
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_nothing_is_left_when_the_block_fails_not_even_new_parents(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(error):
        write(tmp_path / "there" / "new" / "newer" / "out", fails=error)
    assert snapshot(tmp_path) == before


def test_an_earlier_run_stays_as_it_was_when_the_block_fails(tmp_path: Path) -> None:
    earlier(tmp_path / "out")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="half way"), output.replace_folder(tmp_path / "out"):
        raise ValueError("half way")
    assert snapshot(tmp_path) == before


def test_an_earlier_run_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write(earlier(tmp_path / "out"))
    assert snapshot(tmp_path) == {"out": None, "out/fresh": b"new"}


@pytest.mark.parametrize("failing", [1, 2])
def test_an_earlier_run_comes_back_when_the_new_folder_cannot_take_its_place(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier(tmp_path / "out")
    before = snapshot(tmp_path)
    calls = 0
    rename = Path.rename

    def fails_once(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError("device busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(OSError, match="device busy"):
        write(tmp_path / "out")
    assert calls >= failing
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_permissions_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "out")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == mode


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    earlier(tmp_path / "real")
    (tmp_path / "out").symlink_to("real")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert snapshot(tmp_path / "real") == {"fresh": b"new"}


def test_a_free_name_an_empty_folder_and_a_forced_earlier_run_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = tmp_path / "model.onnx"
    output.check_target(tmp_path / "free", model, force=False)
    output.check_target(tmp_path / "far" / "away", model, None, [{"x": 1}], "module:function", force=False)
    output.check_target(tmp_path / "empty", model, force=False)
    output.check_target(earlier(tmp_path / "out"), model, force=True)
    write(tmp_path / "empty")
    assert snapshot(tmp_path / "empty") == {"fresh": b"new"}


@pytest.mark.parametrize("report", ["", "not JSON", "[]", "{}", '{"tool": "coverage"}', '"prox24-export"'])
def test_a_folder_whose_report_is_not_ours_is_never_replaced(report: str, tmp_path: Path) -> None:
    out = earlier(tmp_path / "out", report)
    with pytest.raises(InputError, match="holds files that are not a finished run"):
        output.check_target(out, tmp_path / "model.onnx", force=True)


def test_an_earlier_run_is_kept_without_force(tmp_path: Path) -> None:
    out = earlier(tmp_path / "out")
    with pytest.raises(InputError, match=re.escape(f"{out} holds a finished run. Replace it with --force")):
        output.check_target(out, tmp_path / "model.onnx", force=False)


@pytest.mark.parametrize("inside", ["model.onnx", "deep/model.onnx"])
def test_nothing_that_is_read_may_lie_in_the_output(inside: str, tmp_path: Path) -> None:
    out = earlier(tmp_path / "out")
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(InputError, match="lies inside the output folder"):
        output.check_target(out, out / inside, force=True)
    with pytest.raises(InputError, match="lies inside the output folder"):
        output.check_target(out, tmp_path / "link" / inside, force=True)
    with pytest.raises(InputError, match="lies inside the output folder"):
        output.check_target(out, tmp_path / "model.onnx", None, str(out / inside), force=True)


def test_a_file_a_dangling_link_and_the_current_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    for out, said in (
        ("file", "is a file"),
        ("link", "is a link to nothing"),
        (".", "the current folder"),
        ("..", "the"),
    ):
        with pytest.raises(InputError, match=said):
            output.check_target(Path(out), Path("elsewhere/model.onnx"), force=True)


def test_a_parent_that_cannot_be_written_is_found_out_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        output.check_target(tmp_path / "file" / "deep" / "out", Path("model.onnx"), force=False)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(PermissionError, match=re.escape(f"no permission to write in {tmp_path}")):
        output.check_target(tmp_path / "new" / "out", Path("model.onnx"), force=False)
