"""A strict reader of protobuf's text format, as far as Triton's configurations use it: every field is a list."""

import json
import re
from typing import Any

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\\n]|\\.)*")|(-?\d+)|([A-Za-z_][A-Za-z0-9_]*)|([][{}:,]))')


def parse(text: str) -> dict[str, list[Any]]:
    """Reads a message.

    Raises:
        ValueError: The text is not of that format.
    """
    tokens, place = [], 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"expected a token at {text[place : place + 20]!r}")
        tokens.append(found[0].strip())
        place = found.end()
    return _Reader(tokens).message("")


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def take(self, *wanted: str) -> str:
        token = self.tokens.pop(0) if self.tokens else ""
        if not token or (wanted and token not in wanted):
            raise ValueError(f"expected {' or '.join(wanted) or 'a value'}, got {token!r}")
        return token

    def message(self, end: str) -> dict[str, list[Any]]:
        fields: dict[str, list[Any]] = {}
        while self.tokens and self.tokens[0] != end:
            name = self.take()
            if not name.isidentifier():
                raise ValueError(f"expected a field, got {name!r}")
            is_scalar = self.tokens[:1] == [":"]
            if is_scalar:
                self.take(":")
            values = fields.setdefault(name, [])
            if self.tokens[:1] == ["["]:
                values += self.several()
            else:
                values.append(self.value(may_be_scalar=is_scalar))
        if end:
            self.take(end)
        return fields

    def several(self) -> list[Any]:
        self.take("[")
        values: list[Any] = []
        while self.tokens[:1] != ["]"]:
            values.append(self.value(may_be_scalar=True))
            if self.tokens[:1] != ["]"]:
                self.take(",")
        self.take("]")
        return values

    def value(self, *, may_be_scalar: bool) -> Any:
        text = self.take()
        if text == "{":
            return self.message("}")
        if not may_be_scalar or text in "[]{}:,":
            raise ValueError(f"expected a message or value, got {text!r}")
        if text[0] == '"':
            return json.loads(text)
        return int(text) if text.lstrip("-").isdigit() else text
