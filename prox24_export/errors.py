"""Errors that end a run, each tied to one exit code."""


class Prox24Error(Exception):
    """A run cannot go on; the message says what was expected, what came, where, and what to do."""

    exit_code = 4


class InputError(Prox24Error):
    """The model, the data or the options are unsuitable; nothing was written."""

    exit_code = 2


class UnavailableError(Prox24Error):
    """A stage that was asked for cannot be had here; found out before any work, nothing was written."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line that says something of a foreign error; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
