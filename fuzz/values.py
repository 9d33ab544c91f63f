"""Values that readers stumble over, and mutations of bytes that all targets share."""

from collections.abc import Callable
from random import Random

BytesMutation = Callable[[bytes], bytes]
"""Changes bytes without knowing what they mean."""

INTEGERS = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 64, 127, 128, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 62)


def pick_integer(random: Random) -> int:
    """Draws an integer, mostly a small one, and some at the edges of types."""
    value = random.choice(INTEGERS[:10] if random.random() < 0.7 else INTEGERS)
    return random.choice((1, 1, 1, 1, 1, -1)) * value + random.choice((0, 0, 0, 1, -1))


def repeat_piece(data: bytes, random: Random, longest: int) -> bytes:
    """Repeats a piece of the data many times, so that whatever costs more than the length of the input shows."""
    if not data:
        return data
    start = random.randrange(len(data))
    stop = min(len(data), start + random.choice((1, 2, 8, 32, 200)))
    room = max(0, longest - len(data)) // (stop - start)
    times = min(room, random.choice((2, 10, 100, 1000, longest)))
    return data[:stop] + data[start:stop] * times + data[stop:]


def change_bytes(data: bytes, random: Random) -> bytes:
    """Changes some bytes: the mutation for runs without an engine that brings its own."""
    changed = bytearray(data or b"\0")
    for _ in range(random.choice((1, 2, 8))):
        place = random.randrange(len(changed) + 1)
        match random.choice(("set", "insert", "cut")):
            case "set" if place < len(changed):
                changed[place] = random.randrange(256)
            case "cut":
                del changed[place : place + random.randrange(9)]
            case _:
                changed.insert(place, random.randrange(256))
    return bytes(changed)
