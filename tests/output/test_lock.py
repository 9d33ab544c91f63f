"""One run at a time holds the lock; what a killed run leaves of it is taken over."""

import errno
import fcntl
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prox24_export.errors import InputError
from prox24_export.output.lock import hold_lock

HOLDER = """\
import sys, time
from pathlib import Path
from prox24_export.output.lock import hold_lock
with hold_lock(Path("out")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_is_gone_afterwards(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "out") as lock:
        assert not lock.left
        said = (tmp_path / "out.lock").read_text("utf-8")
        assert said == f"prox24-export {platform.node()} {os.getpid()}\n"
    assert not (tmp_path / "out.lock").exists()


def test_another_process_that_is_killed_lets_go_of_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=tmp_path, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another run is writing"), hold_lock(tmp_path / "out"):
            pass
        holder.kill()
    assert (tmp_path / "out.lock").exists()
    with hold_lock(tmp_path / "out") as lock:
        assert lock.left
    assert (tmp_path / "out.lock").exists()  # nobody has looked yet at what that run has left
    with hold_lock(tmp_path / "out") as lock:
        lock.stays = False
    assert not (tmp_path / "out.lock").exists()


@pytest.mark.parametrize("content", ["poetry lock file", "prox24-export two", "prox24-export machine one", "\x00"])
def test_a_file_of_somebody_else_is_neither_locked_nor_removed(content: str, tmp_path: Path) -> None:
    file = tmp_path / "out.lock"
    file.write_text(content, "utf-8")
    with pytest.raises(InputError, match=r"out\.lock is no lock of this program"), hold_lock(tmp_path / "out"):
        pass
    assert file.read_text("utf-8") == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda file: file.symlink_to("precious")])
def test_what_is_no_file_in_its_place_is_refused_and_a_link_not_followed(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("prox24-export a 1\n", "utf-8")
    make(tmp_path / "out.lock")
    with pytest.raises(InputError, match=r"out\.lock is no lock of this program"), hold_lock(tmp_path / "out"):
        pass
    assert (tmp_path / "precious").read_text("utf-8") == "prox24-export a 1\n"


def test_a_left_lock_that_cannot_be_signed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.lock"
    file.write_text("prox24-export machine 1\n", "utf-8")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"), hold_lock(tmp_path / "out"):
            pass
    with hold_lock(tmp_path / "out") as lock:
        assert lock.left


@pytest.mark.parametrize(
    ("holder", "is_refused"),
    [
        (f"{platform.node()} {os.getpid()}", True),
        ("another-machine 1", True),
        (f"{platform.node()} {2**22 + 1}", False),  # above the largest process number
    ],
    ids=["running here", "on another machine", "no longer running"],
)
def test_on_a_file_system_without_locks_the_named_process_decides(
    holder: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_handle: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    file = tmp_path / "out.lock"
    file.write_text(f"prox24-export {holder}\n", "utf-8")
    if is_refused:
        with (
            pytest.raises(InputError, match=r"If no such run is left, remove .*out\.lock"),
            hold_lock(tmp_path / "out"),
        ):
            pass
        assert file.exists()
    else:
        with hold_lock(tmp_path / "out") as lock:
            assert lock.left
