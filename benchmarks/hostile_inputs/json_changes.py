"""JSON with one place changed, or torn as a whole."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 1e308, -1e-320, 10**30, 10**400, 2**31, 2**63, "", " ", "text", "NaN", "-inf",
    "\x1b[31mred", "\u202eevil", "\x00", "../../etc/passwd", "/etc/hostname", "n" * 70_000, "\ud800", [], {}, [None],
    [[]], [-1, -1], {"": ""}, ["a"] * 3000, {"a": {"a": {"a": {}}}}, float("nan"), float("inf"), "os.system",
    "<script>x</script>",
)  # fmt: skip
DEEP = "@deep@"


def change_json(text: bytes, dice: random.Random, *, torn: float = 0.15) -> tuple[bytes, str]:
    """Changes a JSON text in one to three places, or tears it; returns the new text and what was done."""
    if dice.random() < torn:
        return _tear(text, dice)
    value, told = json.loads(text), []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        value, done = _change_place(value, dice)
        told.append(done)
    depth = dice.choice((200, 900, 3000, 100_000))
    new = json.dumps(value, ensure_ascii=dice.random() < 0.5).replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    return new.encode("utf-8", "surrogatepass"), "; ".join(told)


def _change_place(value: Any, dice: random.Random) -> tuple[Any, str]:
    whole = copy.deepcopy(value)
    places = list(_list_places(whole))
    if not places:
        return dice.choice(VALUES), "all"
    holder, key, path = dice.choice(places)
    new = copy.deepcopy(dice.choice(VALUES)) if dice.random() < 0.97 else DEEP
    how = dice.randrange(8)
    match how:
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[dice.choice(("", "\x1b[2J", "new", "__class__", "auto_map"))] = holder.pop(key)
        case 1:
            holder.insert(key, new)
        case 2 if isinstance(holder[key], list) and holder[key]:
            holder[key] *= dice.choice((2, 3, 500))
        case 3 if type(holder[key]) is int:
            number = holder[key]
            holder[key] = dice.choice((-number, number * 1000, number + 1, float(number) / 3, str(number)))
        case 4:
            other, at, _ = dice.choice(places)
            holder[key] = copy.deepcopy(other[at])
        case _:
            holder[key] = new
    done = "missing" if how == 0 else "inserted, or renamed" if how == 1 else f"= {holder[key]!r:.40}"
    return whole, f"{path} {done}"


def _list_places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in list(items):
        yield value, key, f"{path}.{key!s:.40}"
        yield from _list_places(entry, f"{path}.{key!s:.40}")


def _tear(text: bytes, dice: random.Random) -> tuple[bytes, str]:
    at = dice.randrange(len(text))
    deep = dice.choice((900, 100_000, 3_000_000))
    return dice.choice(
        (
            (text[:at], "cut off"),
            (text[:at] + dice.randbytes(3) + text[at:], "bytes inserted"),
            (text[:at] + text[at + dice.randrange(1, 30) :], "a part left out"),
            (b"\xef\xbb\xbf" + text[: at + 1], "a mark of byte order"),
            (text.decode("utf-8", "ignore")[at // 2 :].encode("utf-16"), "UTF-16"),
            (b"[" * deep + text[:at], "deep without end"),
            (b'{"a":' * deep, "deep objects without end"),
            (b"", "nothing"),
            (dice.randbytes(at + 1), "noise"),
            (b"\0" * (at + 1), "zeros"),
            (text + text[: at + 1], "more behind it"),
            (text.replace(b":", b': 1e999, "\x1b":', 1 + at % 3), "another key in between"),
            (b"null", "null"),
            (b"[]", "a list"),
            (b"7", "a number"),
            (b'"t"', "a text"),
        )
    )
