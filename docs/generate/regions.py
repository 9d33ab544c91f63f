"""The generated parts of pages: what stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.generate.gpus import render_gpus
from docs.generate.options import render_options
from docs.generate.reasons import render_engine_reasons, render_layer_reasons
from docs.generate.schema import render_schema

PAGES = tuple(sorted(Path(__file__).resolve().parents[1].glob("*.md")))
RENDERERS: Mapping[str, Callable[[], str]] = {
    "gpus": render_gpus,
    "options": render_options,
    "report schema": render_schema,
    "reasons of layers": render_layer_reasons,
    "reasons of engines": render_engine_reasons,
}
REGION = re.compile(r"(<!-- generated: (?P<name>.*?) -->\n).*?(<!-- end of (?P=name) -->)", re.DOTALL)


def fill_regions(text: str) -> str:
    """A page's text with every generated part made anew.

    Raises:
        KeyError: The page has a part of an unknown name.
    """
    return REGION.sub(lambda found: f"{found[1]}\n{RENDERERS[found['name']]().strip()}\n\n{found[3]}", text)
