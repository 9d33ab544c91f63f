"""Options from files: `prox24.toml`, and `[tool.prox24-export]` in `pyproject.toml`.

Names are those of the command line without the dashes; a sub-command's options stand in a table of its name. What the
command line says counts first, then `prox24.toml`, then `pyproject.toml`. Each is looked for in the current folder and
those above it; paths in it are relative to it. A name that no option has is an error.
"""

import tomllib
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError
from cyclopts.config import Toml

OWN_FILE, PROJECT_FILE = "prox24.toml", "pyproject.toml"
TABLE = ("tool", "prox24-export")
PATHS = frozenset({"calibration", "evaluation", "out", "baseline", "timing-cache", "inputs"})


class _File(Toml):
    """Cyclopts' own, with messages that name the file, and with paths relative to it."""

    def _load_config(self, path: Path) -> dict[str, Any]:
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
            text = error.strerror if isinstance(error, OSError) else error
            raise CycloptsError(msg=f"{path} cannot be read: {text}. Expected a TOML file.") from error
        self.source = str(path)
        table: Any = found
        for key in self.root_keys:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict) and path.parent != Path.cwd():
            _anchor(table, path.parent)
        return found


def _anchor(table: dict[str, Any], folder: Path) -> None:
    """Makes relative paths those from the file's folder. `module:function` is none; `~` is the user's home."""
    for key, value in table.items():
        if isinstance(value, dict):
            _anchor(value, folder)
        elif key.replace("_", "-") in PATHS and isinstance(value, str) and ":" not in value:
            table[key] = str(folder / Path(value).expanduser())


def sources() -> tuple[Toml, ...]:
    """For `App(config=…)`; the first counts most. Nothing is read before a command is parsed."""
    return _File(OWN_FILE, search_parents=True), _File(PROJECT_FILE, root_keys=TABLE, search_parents=True)
