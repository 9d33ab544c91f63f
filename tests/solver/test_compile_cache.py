"""Where compiled kernels are kept: the index of the cache is a pickle, so nobody else may be able to write it."""

import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import prox24_export
from prox24_export.solver import compile_cache

RUN = """
from prox24_export.solver.prox_math import worth_trying
print(worth_trying(4.0, 3.0, 2.0, 1.0))
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all caches, which is the user's alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_compiled_kernels_go_to_the_users_cache_and_never_into_the_package(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=environment | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "(False, False, False)"
    assert list((tmp_path / "prox24-export").rglob("*.nbi"))
    package = Path(prox24_export.__file__).parent
    started = (tmp_path / "prox24-export").stat().st_ctime
    assert not [path for path in package.rglob("*.nbi") if path.stat().st_mtime > started - 1]


def test_numbas_own_setting_is_left_as_it_was() -> None:
    before = compile_cache.CONFIG.CACHE_DIR
    seen = compile_cache.cache_compiled(lambda function: (compile_cache.CONFIG.CACHE_DIR, function()))(lambda: 7)
    assert seen == (before or str(compile_cache.find_cache_folder()), 7)
    assert before == compile_cache.CONFIG.CACHE_DIR


SOURCE = """
import numba
from prox24_export.solver.compile_cache import cache_compiled

@cache_compiled(numba.njit(cache=True))
def double(number):
    return 2 * number
"""


def test_what_one_installation_has_compiled_serves_another_with_the_same_sources(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cache.CONFIG, "CACHE_DIR", "")
    hits = []
    for place, source in (("one", SOURCE), ("two", SOURCE), ("three", SOURCE.replace("2 * number", "number + number"))):
        (tmp_path / place).mkdir()
        file = tmp_path / place / "kernels.py"
        file.write_text(source, encoding="utf-8")
        double = runpy.run_path(str(file))["double"]
        assert double(21) == 42
        assert list(base.rglob("*.nbi"))
        hits.append(sum(double.stats.cache_hits.values()))
    assert hits == [0, 1, 0]


def is_temporary(folder: Path, base: Path) -> bool:
    """Whether it is a private folder elsewhere, under a name that nobody could know before."""
    return base not in folder.parents and stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder == again()


def again() -> Path:
    return compile_cache.find_cache_folder()


def test_a_folder_of_the_users_own_is_made_for_the_user_alone(base: Path) -> None:
    folder = compile_cache.find_cache_folder()
    assert base in folder.parents
    assert [stat.S_IMODE(path.stat().st_mode) for path in (base, folder.parent, folder)] == [0o700] * 3
    assert compile_cache.find_cache_folder() == folder


@pytest.mark.parametrize("place", ["", "prox24-export"])
@pytest.mark.parametrize("mode", [0o777, 0o722])
def test_a_folder_that_others_can_write_to_is_not_used(place: str, mode: int, base: Path) -> None:
    compile_cache.find_cache_folder()
    (base / place).chmod(mode)
    assert is_temporary(compile_cache.find_cache_folder(), base)


def test_a_folder_in_one_that_others_may_only_add_to_is_used(base: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert base in compile_cache.find_cache_folder().parents
    tmp_path.chmod(0o777)
    assert is_temporary(compile_cache.find_cache_folder(), base)


def test_a_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base.mkdir(mode=0o700)
    (base / "prox24-export").symlink_to(tmp_path / "elsewhere")
    assert is_temporary(compile_cache.find_cache_folder(), base)


def test_a_folder_of_another_user_is_not_used(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = compile_cache.find_cache_folder()
    another = SimpleNamespace(**{name: getattr(os, name) for name in ("environ", "access", "W_OK")})
    another.getuid = lambda: os.getuid() + 1
    monkeypatch.setattr(compile_cache, "os", another)
    assert is_temporary(compile_cache.find_cache_folder(), base)
    assert folder.is_dir()


FIND = "from prox24_export.solver.compile_cache import find_cache_folder; print(find_cache_folder())"


def test_without_a_cache_the_folder_has_a_name_that_nobody_knows_and_is_gone_afterwards(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    planted = tmp_path / f"prox24-export-{os.getuid()}"  # anybody could make this one before
    planted.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    changed = {"XDG_CACHE_HOME": str(tmp_path / "file" / "none"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FIND], env=environment | changed, capture_output=True, text=True, check=True
    )
    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path
    assert folder != planted
    assert not folder.exists()
