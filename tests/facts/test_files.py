"""The digest is of what was read, and a file that changes meanwhile is noticed."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from prox24_export.errors import InputError
from prox24_export.facts.files import describe_files, expect_unchanged, list_folder, look_at


def test_the_digest_of_one_file_is_that_of_every_other_tool(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"content")
    facts = describe_files({"": file}, Path("shown.onnx"))
    assert (facts.path, facts.bytes, facts.sha256) == ("shown.onnx", 7, hashlib.sha256(b"content").hexdigest())


def test_the_digest_of_several_files_holds_names_and_contents(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name * 3, "utf-8")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    facts = describe_files(list_folder(tmp_path), tmp_path)
    assert (facts.bytes, facts.sha256) == (6, hashlib.sha256(b"aaaabbbb").hexdigest())


def change_content(file: Path) -> None:
    file.write_text("other", "utf-8")


def change_content_and_its_date(file: Path) -> None:
    before = file.stat()
    file.write_text("other", "utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    (file.parent / "new").write_text("other", "utf-8")
    (file.parent / "new").replace(file)


@pytest.mark.parametrize("change", [change_content, change_content_and_its_date, replace])
def test_a_file_that_changed_is_named(change: object, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("model", "utf-8")
    states, facts = look_at([file]), describe_files({"": file}, file)
    expect_unchanged(states, lambda: False)
    assert callable(change)
    change(file)
    with pytest.raises(InputError, match=re.escape(f"{file} was changed while it was read")):
        expect_unchanged(states, lambda: describe_files({"": file}, file) == facts)


def test_a_new_link_to_a_file_changes_nothing_in_it(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("model", "utf-8")
    states, facts = look_at([file]), describe_files({"": file}, file)
    os.link(file, tmp_path / "second")
    expect_unchanged(states, lambda: describe_files({"": file}, file) == facts)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.touch()
    states = look_at([file])
    file.unlink()
    with pytest.raises(InputError, match=r"cannot be read: No such file or directory"):
        expect_unchanged(states, lambda: True)
