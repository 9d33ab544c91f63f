"""One target in a process of its own, under the engine that looks which inputs reach new lines.

    python -m fuzz.worker TARGET STATE OPTIONS…

The engine's own options follow: `-max_total_time=30`, `-seed=1`, folders of inputs. What it has done so far is written
to the file STATE again and again. A finding ends the process, with the input in a file and the traceback on stderr.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from random import Random
from types import ModuleType

import atheris

EVERY = 2.0  # seconds between two writes of the state
PACKAGES = ["prox24_export", "onnx_ir"]  # what is written in Python, and reads what strangers wrote


def main(name: str, state: Path, options: list[str]) -> None:
    """Runs a target until the engine ends."""
    with atheris.instrument_imports(include=PACKAGES):
        guard, values, target = (importlib.import_module(f"fuzz.{one}") for one in ("guard", "values", name))
    counter = _Counter(state)

    def check(data: bytes) -> None:
        guard.try_input(target.check, data)
        counter.count()

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        return _mutate(target, values, data, longest, Random(seed))

    atheris.Setup(["fuzz", *options], check, custom_mutator=mutate)
    atheris.Fuzz()


def _mutate(target: ModuleType, values: ModuleType, data: bytes, longest: int, random: Random) -> bytes:
    if random.random() < 0.02:
        return bytes(values.repeat_piece(data, random, longest))[:longest]
    return bytes(target.mutate(data, random, lambda piece: atheris.Mutate(piece, max(len(piece) + 64, 64))))[:longest]


class _Counter:
    """Counts inputs, and writes from time to time how many there were and what processor time they took."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.executions = 0
        self.began = time.process_time()
        self.due = time.monotonic()

    def count(self) -> None:
        self.executions += 1
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + EVERY
            done = {"executions": self.executions, "seconds": round(time.process_time() - self.began, 1)}
            partial = self.state.with_suffix(".partial")
            partial.write_text(json.dumps(done), encoding="utf-8")
            partial.replace(self.state)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
