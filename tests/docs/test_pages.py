"""Pages are short to read, their links lead somewhere, every block is run or says why not, and names in them exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown_pages import PAGES, README, ROOT, Block, anchors, blocks, known_options, links, paragraphs

MOST_WORDS = 80
MOST_LINES = 120
FEWEST_LINKS = 10
RUN = {"sh", "python", "toml", "yaml"}
SHOWN = ("output of ", "a formula")  # what may stand before a block of plain text
FOREIGN = {"--sparsity", "--verbose", "--index-url", "--quick", "--write"}  # of trtexec, pip and the benchmarks
FOREIGN |= {"--fold-constants"}  # of Polygraphy
FOREIGN |= {"--address", "--generate", "--head", "--include-dashboard", "--port"}  # of Ray
UNMEASURED = re.compile(
    r"\b(?:not|nothing|none|never|nobody)\b[^.:;]*\b(?:measured|run|tried|tested)\b[^.:;]*\bon\s+a\s+(?:real\s+)?GPU",
    re.IGNORECASE,
)
EVERY_PAGE = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def long_paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in paragraphs(text) if len(paragraph.split()) > MOST_WORDS]


def broken_links(path: Path, text: str) -> Iterator[str]:
    for target in links(text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        inside = file.read_text(encoding="utf-8") if file.suffix == ".md" and file.is_file() else ""
        if not file.exists() or (anchor and anchor not in anchors(inside if name else text)):
            yield target


def unexplained(found: list[Block]) -> list[Block]:
    """Blocks that no test runs and that do not say why."""
    return [
        block
        for block in found
        if not (block.language in RUN or (block.language == "text" and block.remark.startswith(SHOWN)))
        or (block.remark.startswith("not run") and not re.match(r"not run: \S", block.remark))
    ]


def unknown_options(text: str) -> set[str]:
    """Options of ours that nobody knows; what other tools print of themselves in an output is theirs."""
    ours = re.sub(r"^  (trtexec|polygraphy) .*$", "", text, flags=re.MULTILINE)
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]*)", ours)) - known_options() - FOREIGN


@EVERY_PAGE
def test_no_paragraph_is_long(path: Path) -> None:
    assert not long_paragraphs(path.read_text(encoding="utf-8"))


def test_a_long_paragraph_and_a_long_list_item_are_found() -> None:
    words = "word " * (MOST_WORDS + 1)
    assert len(long_paragraphs(f"{words}\n\n- {words}\n- short\n\nshort\n")) == 2
    assert not long_paragraphs("word " * MOST_WORDS)


@EVERY_PAGE
def test_links_lead_to_files_and_headings_that_are_there(path: Path) -> None:
    assert not list(broken_links(path, path.read_text(encoding="utf-8")))


def test_a_broken_link_is_found() -> None:
    good, page = "[b](#a-title)", "docs/gates-and-ci.md"
    text = f"# A title\n\n[a](docs/nothing.md) {good} [c](#no-title) [d]({page}#no-heading) ![e](no.svg)"
    assert list(broken_links(README, text)) == ["docs/nothing.md", "#no-title", f"{page}#no-heading", "no.svg"]


def lost_scripts(text: str) -> list[str]:
    """Python files that a page names with their folder, and that are not in the repository."""
    named = re.findall(r"`(?:python )?((?:benchmarks|docs|passes|prox24_export|samples|tests)/[\w/]+\.py)", text)
    return [name for name in named if not (README.parent / name).is_file()]


@EVERY_PAGE
def test_scripts_that_are_named_are_there(path: Path) -> None:
    assert lost_scripts(path.read_text(encoding="utf-8")) == []


def test_a_script_that_is_not_there_is_found() -> None:
    assert lost_scripts("run `python docs/gone.py` or `benchmarks/help.py`") == ["docs/gone.py"]


def test_readme_is_one_page_that_leads_on() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert len(list(links(text))) >= FEWEST_LINKS


def test_every_page_is_linked_from_readme() -> None:
    linked = {target.removeprefix("docs/") for target in links(README.read_text(encoding="utf-8"))}
    assert {path.name for path in PAGES} - linked == {"README.md", "index.md"}


@EVERY_PAGE
def test_every_block_is_run_or_says_why_not(path: Path) -> None:
    assert not unexplained(blocks(path))


def test_a_block_that_is_neither_run_nor_explained_is_found() -> None:
    kinds = [("text", ""), ("console", ""), ("", ""), ("sh", "not run: "), ("sh", "not run"), ("text", "output of it")]
    found = [Block("page", language, "line\n", remark, 1) for language, remark in (*kinds, ("sh", ""))]
    assert unexplained(found) == found[:5]


@EVERY_PAGE
def test_every_option_that_a_page_names_exists(path: Path) -> None:
    assert not unknown_options(path.read_text(encoding="utf-8"))


def test_an_option_that_does_not_exist_is_found() -> None:
    assert unknown_options("`--calibration` and `--calibrate`, not x--y") == {"--calibrate"}


def test_one_page_says_what_is_not_measured_on_a_gpu_and_all_others_link_there() -> None:
    pages = {path.name: paragraphs(path.read_text(encoding="utf-8")) for path in (*PAGES, ROOT / "CHANGELOG.md")}
    found = [(name, said) for name, texts in pages.items() for text in texts for said in UNMEASURED.findall(text)]
    assert found == [("engines.md", "Nothing of this project has run on a GPU")]


@pytest.mark.parametrize("said", ["Nothing here has been measured\non a GPU yet.", "They were not run on a real GPU."])
def test_a_second_place_that_says_so_is_found(said: str) -> None:
    assert UNMEASURED.search(f"It was tested. {said}")
    assert not UNMEASURED.search("It says what is not measured yet, and what has been tested without a GPU.")
