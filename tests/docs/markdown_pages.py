"""README and the pages of the documentation as data: paragraphs, links, anchors, and blocks with their remarks."""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
PARSER = MarkdownIt("commonmark").enable("table")
COMMENT = re.compile(r"<!-- (?P<text>.*?) -->", re.DOTALL)
MAIN_JOB = (
    "pip install -c constraints.txt . && prox24-export samples/digits/digits_vit.onnx --calibration "
    "samples/digits/calibration.npz --evaluation samples/digits/evaluation.npz"
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: Name of the page.
        language: What stands behind the fence.
        text: Its lines.
        remark: Text of the comment right before it; empty where there is none.
        line: Of its fence, from 1.
    """

    page: str
    language: str
    text: str
    remark: str
    line: int

    @property
    def is_run(self) -> bool:
        """Whether a test has to run it."""
        return not self.remark.startswith("not run: ")

    @property
    def commands(self) -> list[str]:
        """Lines of a shell block, continued ones joined."""
        return self.text.replace("\\\n", " ").split("\n")[:-1]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """Every fenced block of a page."""
    return list(_blocks(path.name, PARSER.parse(path.read_text(encoding="utf-8"))))


def _blocks(page: str, tokens: list[Token]) -> Iterator[Block]:
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "fence":
            is_comment = before is not None and before.type == "html_block"
            found = COMMENT.search(before.content) if before is not None and is_comment else None
            yield Block(page, token.info, token.content, found["text"] if found else "", (token.map or [0])[0] + 1)


def paragraphs(text: str) -> Iterator[str]:
    """Text of every paragraph and list item; cells of tables, headings and code are none."""
    tokens = PARSER.parse(text)
    for before, token in itertools.pairwise(tokens):
        if before.type == "paragraph_open":
            yield token.content


def links(text: str) -> Iterator[str]:
    """Target of every link and picture."""
    for token in PARSER.parse(text):
        for child in token.children or ():
            if child.type in {"link_open", "image"}:
                yield str(child.attrGet("href") or child.attrGet("src"))


def anchors(text: str) -> frozenset[str]:
    """Anchors of a page's headings, as GitHub and the site both make them."""
    tokens = PARSER.parse(text)
    pairs = itertools.pairwise(tokens)
    return frozenset(_slug(token.content) for before, token in pairs if before.type == "heading_open")


def _slug(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")


@cache
def known_options() -> frozenset[str]:
    """Every option that the command's help names."""
    shown = "".join(
        subprocess.run(
            [sys.executable, "-m", "prox24_export", *command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for command in ([], ["inspect"], ["bench"], ["report"])
    )
    return frozenset(re.findall(r"(?<![\w-])--[a-z0-9-]+", shown))
