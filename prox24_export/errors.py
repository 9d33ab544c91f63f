"""The errors that end a run, each with its exit code."""

import re

COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # as terminals take it


class Prox24Error(Exception):
    """A run cannot go on; the message says what was expected, what was found, where, and what to do."""

    exit_code = 4


class InputError(Prox24Error):
    """The model, the data or the options are unsuitable; nothing was written."""

    exit_code = 2


class UnavailableError(Prox24Error):
    """What was asked for cannot be had here; this was found out before any work, and nothing was written."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's message that is not empty; the error's type where there is none.

    Colours for a terminal are left out.
    """
    lines = [line.strip() for line in COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def describe_fault(error: BaseException) -> str:
    """Describes an error in one sentence without its full stop: the real cause of an OSError, the type of a fault."""
    if isinstance(error, OSError) and error.strerror:
        places = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{error.strerror}: {' and '.join(places)}" if places else error.strerror
    if isinstance(error, (Prox24Error, OSError)):
        return first_line(error).rstrip(".")
    return f"{type(error).__name__}: {first_line(error).rstrip('.')}"


def describe_missing(error: Exception, library: str) -> str:
    """Says without a full stop why a library cannot be imported: it is not installed, or it is and fails inside."""
    if isinstance(error, ModuleNotFoundError) and error.name == library:
        return f"{library} is not installed"
    return f"{library} is installed and cannot be imported: {first_line(error).rstrip('.')}"
