"""Progress on long work: bars on a terminal, elsewhere a line per stage. A pass calls `tick` and knows no more."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Steps:
    """What a stage yields: called, it advances by one step.

    Attributes:
        advance: Advances by one step.
        tell: Shows what is known so far, e.g. the error of the last layer, in a few words.
    """

    advance: Callable[[], None] = lambda: None
    tell: Callable[[str], None] = lambda _words: None

    def __call__(self) -> None:
        """One step."""
        self.advance()


class Progress(Protocol):
    """Where a pipeline says how far it is."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Steps]:
        """A stage of `total` steps."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Steps]:  # noqa: ARG002 (the protocol's names)
        """See `Progress`."""
        yield Steps()


class Terminal:
    """On stderr: bars with the time left where that is a terminal, else one line for each stage that is done.

    Colours follow `NO_COLOR`.
    """

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Steps]:
        """See `Progress`."""
        with _bar(title, total) if sys.stderr.isatty() else _line(title) as steps:
            yield steps


@contextmanager
def _line(title: str) -> Iterator[Steps]:
    started = time.perf_counter()
    last = [""]

    def tell(words: str) -> None:
        last[0] = f" ({words})"

    yield Steps(tell=tell)
    sys.stderr.write(f"{title}: done in {time.perf_counter() - started:.1f} s{last[0]}\n")


@contextmanager
def _bar(title: str, total: int) -> Iterator[Steps]:
    from rich.console import Console  # noqa: PLC0415 (only when a run starts)
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (TextColumn("{task.description:<20}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    said = TextColumn("{task.fields[said]}", markup=False)
    with Bars(*columns, said, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, said="")
        yield Steps(lambda: bars.advance(task), lambda words: bars.update(task, said=words[-SHOWN:]))


SHOWN = 48  # characters of what is told, so that a line fits
