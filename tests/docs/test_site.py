"""The site builds strictly, and needs nothing from elsewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown_pages import PAGES, ROOT

pytest.importorskip("zensical", reason="install the extra `docs`")
LOADED = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(https?:[^\"]*)\"")


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Builds the site of a copy of the repository's pages."""
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    (tmp_path / "prox24_export").symlink_to(ROOT / "prox24_export")
    return tmp_path


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(copy: Path) -> None:
    result = build(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {
        path.parent.name: path.read_text(encoding="utf-8") for path in (copy / "build" / "site").rglob("index.html")
    }
    assert set(pages) == {"site", *(path.stem for path in PAGES if path.stem not in {"index", "README"})}
    assert not [found for text in pages.values() for found in LOADED.findall(text)]
    for name in ("export", "inspect", "plan", "sensitivity"):
        assert f'id="prox24_export.pipeline.{name}"' in pages["python-api"]


@pytest.mark.parametrize(
    ("page", "line"),
    [("index.md", "[nowhere](nothing.md)"), ("python-api.md", "::: prox24_export.pipeline.exports")],
    ids=["a link", "a name of the API"],
)
def test_what_leads_nowhere_does_not_build(copy: Path, page: str, line: str) -> None:
    with (copy / "docs" / page).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    assert build(copy).returncode != 0
