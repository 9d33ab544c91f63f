r"""Text of strangers, such as names in a model, made safe to show: nothing in it can move a cursor or begin a line.

Control characters drive terminals, and logs and annotations of CI are read line by line; characters that change the
direction of writing make a line read as another. They are shown by their code, as `\u001b`, and so is half of a
surrogate pair, which no encoding takes.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

_UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
T = TypeVar("T")


def escape(text: str, *, keep: str = "") -> str:
    """Returns the text with every unsafe character shown by its code, but those in `keep`."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def make_printable(value: T) -> T:
    """Returns a copy of a value in which every text is escaped: in dataclasses, mappings, lists and tuples, too."""
    printable: T = _walk(value)
    return printable


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value) if field.init)
        return dataclasses.replace(value, **{name: _walk(getattr(value, name)) for name in fields})
    if isinstance(value, Mapping):
        return {_walk(key): _walk(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_walk, value))
    return value
