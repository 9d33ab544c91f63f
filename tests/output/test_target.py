"""Which folders may be written, and which are refused before any work."""

import json
import os
import re
from pathlib import Path

import pytest

from prox24_export.errors import InputError
from prox24_export.output import target

OURS = json.dumps({"tool": "prox24-export", "files": ["report.json", "model.onnx"]})


def earlier(folder: Path, report: str = OURS) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(report, "utf-8")
    (folder / "model.onnx").write_text("earlier", "utf-8")
    return folder


def test_a_free_name_an_empty_folder_and_a_forced_earlier_run_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("free", "far/away", "empty"):
        assert target.expect_place(tmp_path / name) == tmp_path / name
        target.expect_replaceable(tmp_path / name, force=False)
    target.expect_replaceable(earlier(tmp_path / "out"), force=True)


@pytest.mark.parametrize("report", ["", "not JSON", "[]", "{}", '{"tool": "coverage"}', '"prox24-export"', "[" * 9999])
def test_a_folder_whose_report_is_not_ours_is_never_replaced(report: str, tmp_path: Path) -> None:
    out = earlier(tmp_path / "out", report)
    with pytest.raises(InputError, match="holds files that are not a finished run"):
        target.expect_replaceable(out, force=True)


def test_an_earlier_run_is_kept_without_force(tmp_path: Path) -> None:
    out = earlier(tmp_path / "out")
    with pytest.raises(InputError, match=re.escape(f"{out} holds a finished run. Replace it with --force")):
        target.expect_replaceable(out, force=False)


@pytest.mark.parametrize("name", ["notes.txt", "deep/er/notes.txt", "link", "../escaped"])
def test_what_no_run_wrote_is_never_replaced(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    earlier(out, json.dumps({"tool": "prox24-export", "files": ["report.json", "model.onnx", "../escaped", 3]}))
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    if name == "link":
        (out / name).symlink_to(tmp_path)
    else:
        (out / name).touch()
    if name == "../escaped":
        target.expect_replaceable(out, force=True)  # it lies outside, so nothing happens to it
        return
    with pytest.raises(InputError, match=rf"holds {name} beside a finished run, which --force would not bring back"):
        target.expect_replaceable(out, force=True)


@pytest.mark.parametrize("inside", ["model.onnx", "deep/model.onnx"])
def test_nothing_that_is_read_may_lie_in_the_output(inside: str, tmp_path: Path) -> None:
    out = earlier(tmp_path / "out")
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(InputError, match="lies inside the output folder"):
        target.expect_outside(out, [out])
    for source in (out / inside, tmp_path / "link" / inside, str(out / inside)):
        with pytest.raises(InputError, match="lies inside the output folder"):
            target.expect_outside(out, [tmp_path / "model.onnx", None, [{"x": 1}], "module:function", source])


def test_a_file_a_dangling_link_and_the_current_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        target.expect_replaceable(Path("file"), force=True)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match="cannot be followed"):
        target.expect_place(Path("circle"))
    with pytest.raises(InputError, match="cannot be followed"):
        target.expect_outside(Path("out"), [Path("circle")])
    with pytest.raises(InputError, match="NUL byte"):
        target.expect_outside(Path("out"), ["a\0b"])
    for out, said in (("link", "is a link to nothing"), (".", "the current folder"), ("..", "the current folder")):
        with pytest.raises(InputError, match=said):
            target.expect_place(Path(out))


@pytest.mark.parametrize("name", ["a\0b", "x" * 250, "deep/" * 2000])
def test_names_that_no_folder_can_have_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--out .*(NUL byte|longer than names)"):
        target.expect_place(tmp_path / name)


def test_a_parent_that_cannot_be_written_is_found_out_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        target.expect_place(tmp_path / "file" / "deep" / "out")
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(PermissionError, match=re.escape(f"no permission to write in {tmp_path}")):
        target.expect_place(tmp_path / "new" / "out")
