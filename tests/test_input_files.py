"""What is no regular file is refused before it is opened."""

import os
import re
import socket
from pathlib import Path

import pytest

from prox24_export.errors import InputError
from prox24_export.input_files import MB, expect_file, expect_path

WANTED = "the path of an .onnx file"


def test_a_regular_file_and_a_link_to_one_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(file)
    os.link(file, tmp_path / "hard")
    for path in (file, tmp_path / "link", tmp_path / "hard"):
        assert expect_file(path, "model", WANTED, most=5).st_size == 5


def test_every_other_kind_is_named_and_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name has at most 108 bytes
    os.mkfifo("pipe")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        named = {"pipe": "a named pipe", "folder": "a folder", "socket": "a socket", "/dev/zero": "a device"}
        for name, kind in named.items():
            with pytest.raises(InputError, match=rf"^model {name} is {kind}\. Expected {WANTED}\.$"):
                expect_file(Path(name), "model", WANTED)


def test_a_missing_file_and_one_below_a_file_are_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=re.escape(f"no such model: {path}. Expected {WANTED}.")):
            expect_file(path, "model", WANTED)


def test_a_loop_of_links_says_what_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"cannot be read: Too many levels of symbolic links"):
        expect_file(tmp_path / "loop", "model", WANTED)


def test_a_file_above_the_limit_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with file.open("wb") as sparse:
        sparse.truncate(3 * MB)
    with pytest.raises(InputError, match=r"holds 3\.0 MB\. Expected JSON, of at most 2 MB"):
        expect_file(file, "configuration", "JSON", most=2 * MB)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "d/" * 5000])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^--out .*(NUL byte|longer than names)"):
        expect_path(name, "--out")
    expect_path("a name that no file has yet", "--out")
