"""The page of the report's schema, from the JSON Schema that is shipped."""

from collections.abc import Mapping
from typing import Any

from docs.generate.tables import render_table
from prox24_export.results.reader import load_schema

REFERENCE = "#/$defs/"


def render_schema() -> str:
    """Every object of `report.json` with its fields."""
    schema = load_schema()
    parts = [_section("Report", schema)]
    parts += [_section(name, entry) for name, entry in schema["$defs"].items()]
    return "\n".join(parts)


def _section(name: str, entry: Mapping[str, Any]) -> str:
    about = entry.get("description", "")
    if "properties" not in entry:
        return f"### {name}\n\n{about} {_sentence(_type(entry))}\n"
    required = set(entry.get("required", ()))
    rows = [
        (f"`{field}`", _type(value), "yes" if field in required else "no", _escaped(value.get("description", "")))
        for field, value in entry["properties"].items()
    ]
    table = render_table(("field", "type", "always there", "meaning"), rows)
    return f"### {name}\n\n{_escaped(about)}\n\n{table}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _escaped(text: str) -> str:
    return text.replace("*", "\\*").replace("<", "&lt;")


def _type(entry: Mapping[str, Any]) -> str:
    """The type of a value in words; other objects as links."""
    match entry:
        case {"$ref": reference}:
            name = reference.removeprefix(REFERENCE)
            found = f"[{name}](#{name.lower()})"
        case {"const": value}:
            found = f"`{value}`"
        case {"enum": values}:
            found = ", ".join(f"`{value}`" for value in values)
        case {"anyOf": choices}:
            found = " or ".join(map(_type, choices))
        case {"type": "array", "items": inner}:
            found = f"list of {_type(inner)}"
        case {"type": "object", "additionalProperties": inner} if inner:
            found = f"object: name to {_type(inner)}"
        case _:
            found = str(entry.get("type", "anything"))
    return found
