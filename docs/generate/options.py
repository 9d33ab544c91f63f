"""The page of options, from the command itself."""

import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

from cyclopts import App, Group
from cyclopts.argument import Argument
from cyclopts.group import sort_groups

from docs.generate.tables import render_table
from prox24_export.cli import app

MAIN = "prox24-export"
KINDS = {bool: "flag", int: "whole number", float: "number", Path: "path", str: "text"}
SHAPES = "shape"


def commands() -> Iterator[tuple[str, App]]:
    """The main command and its sub-commands, each with the name that a user types."""
    yield MAIN, app
    for name in app:
        if not name.startswith("-"):
            yield f"{MAIN} {name}", app[name]


def render_options() -> str:
    """Every argument and option of every command, by the groups of the help."""
    return "\n".join(_section(name, command) for name, command in commands())


def _section(name: str, command: App) -> str:
    arguments = command.assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True)
    members: dict[str, list[Argument]] = {}
    groups: dict[str, Group] = {}
    for argument in arguments:
        if argument.names != ("*",):  # a class whose fields are the options: they follow by themselves
            (group, *_) = cast("tuple[Group, ...]", argument.parameter.group)  # resolved by the line above
            groups[group.name] = group
            members.setdefault(group.name, []).append(argument)
    about = str(command.help).split("\n\n", maxsplit=1)[0]
    parts = [f"## {name}\n\n{about}\n"]
    for group, rows in zip(*sort_groups(list(groups.values()), list(members.values())), strict=True):
        help_text = f"{group.help}\n\n" if group.help else ""
        parts.append(f"### {group.name}\n\n{help_text}{_table(group.name, rows)}")
    return "\n".join(parts)


def _table(group: str, arguments: Iterable[Argument]) -> str:
    title = "argument" if group == "Arguments" else "option"
    return render_table((title, "value", "what it does"), map(_row, arguments))


def _row(argument: Argument) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in argument.names)
    return names, _value(argument), _escaped(argument.parameter.help or "")


def _escaped(text: str) -> str:
    """Help is plain text: what Markdown would read as emphasis or as a tag is protected."""
    return text.replace("*", "\\*").replace("<", "&lt;")


def _value(argument: Argument) -> str:
    default = argument.field_info.default
    if choices := argument.get_choices():
        return ", ".join(f"**`{choice}`**" if choice == default else f"`{choice}`" for choice in choices)
    kind, repeats = _kind(argument.hint)
    shown = f"**`{default}`**" if isinstance(default, int | float) and not isinstance(default, bool) else ""
    return f"{kind}{', may be repeated' if repeats else ''}{f', {shown}' if shown else ''}"


def _kind(hint: Any) -> tuple[str, bool]:
    """The kind of value that an option takes, in words, and whether it takes several."""
    origin, inner = get_origin(hint), [entry for entry in get_args(hint) if entry not in {types.NoneType, Ellipsis}]
    if origin in {Union, types.UnionType} and len(inner) == 1:
        return _kind(inner[0])
    if origin in {list, tuple}:
        return _kind(inner[0])[0], True
    if origin is Literal:
        return ", ".join(map(str, inner)), False
    return (KINDS[hint], False) if hint in KINDS else (SHAPES, True)
