"""Options from files: from `prox24.toml`, and from `[tool.prox24-export]` in `pyproject.toml`.

Names are those of the command line without the dashes; a sub-command's options stand in a table of its name. What the
command line says counts first, then `prox24.toml`, then `pyproject.toml`. Each is looked for in the current folder and
those above it; paths in it are relative to it. A name that no option has is an error.
"""

import tomllib
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError, Parameter, Token
from cyclopts.config import Toml

from prox24_export.errors import InputError
from prox24_export.input_files import MB, expect_file

OWN_FILE, PROJECT_FILE = "prox24.toml", "pyproject.toml"
TABLE = ("tool", "prox24-export")


class _File(Toml):
    """A TOML file as cyclopts reads it, with error messages that name the file."""

    def _load_config(self, path: Path) -> dict[str, Any]:
        try:
            expect_file(path, "configuration", "a TOML file", most=MB)
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except InputError as error:
            raise CycloptsError(msg=str(error)) from error
        except (OSError, UnicodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            text = error.strerror if isinstance(error, OSError) else error
            raise CycloptsError(msg=f"{path} cannot be read: {text}. Expected a TOML file.") from error
        self.source = str(path)
        return found


def list_sources() -> tuple[Toml, ...]:
    """Lists the files for `App(config=…)`; the first counts most. None is read before a command is parsed."""
    return _File(OWN_FILE, search_parents=True), _File(PROJECT_FILE, root_keys=TABLE, search_parents=True)


def _read_path(kind: type[str | Path], tokens: tuple[Token, ...]) -> str | Path:
    """Reads a path, which is relative to the file that it stands in; `~` is then the user's home.

    A path of the command line is taken as it is, and so is `module:function`.
    """
    (token,) = tokens
    source, text = Path(token.source), token.value
    from_file = source.name in {OWN_FILE, PROJECT_FILE} and ":" not in text
    if from_file and (source.parent != Path.cwd() or text.startswith("~")):
        return kind(source.parent / Path(text).expanduser())
    return kind(text)


PATH = Parameter(converter=_read_path)
"""Marks an option, a `str` or a `Path`, that names a file or folder."""
