"""Writes every generated part of the pages anew: `python -m docs.generate`."""

import sys

from docs.generate.regions import PAGES, fill_regions


def write_pages() -> int:
    """Writes the pages whose generated parts are not current, names them, and returns an exit code."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        current = fill_regions(text)
        if current != text:
            path.write_text(current, encoding="utf-8")
            sys.stdout.write(f"{path.name} written\n")
    return 0


if __name__ == "__main__":
    sys.exit(write_pages())
