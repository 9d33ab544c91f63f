"""Progress of long work: bars on a terminal, elsewhere a line for each stage.

A pass calls `tick` and knows no more of it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Protocol, cast

from prox24_export.process.interrupts import raise_if_interrupted
from prox24_export.process.printable import escape
from prox24_export.process.stderr import PatientStream, open_stderr


@dataclass(frozen=True)
class Steps:
    """The progress of one stage; calling it advances the stage by one step.

    Attributes:
        advance: Advances the stage by one step.
        tell: Shows a few words on what is known so far, e.g. the error of the last layer.
    """

    advance: Callable[[], None] = lambda: None
    tell: Callable[[str], None] = lambda _words: None

    def __call__(self) -> None:
        """Advances the stage by one step.

        Raises:
            KeyboardInterrupt: A signal came, and compiled code swallowed its exception.
        """
        raise_if_interrupted()
        self.advance()


class Progress(Protocol):
    """Shows how far a pipeline has come."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Steps]:
        """Begins a stage of `total` steps, which ends with the block."""


class Silent:
    """Progress that is not shown."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Steps]:  # noqa: ARG002 (the protocol's names)
        """See `Progress.stage`."""
        yield Steps()


class Terminal:
    """Progress on stderr: bars with the time left on a terminal, else one line for each stage that is done.

    There are no colours where `NO_COLOR` is set.
    """

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Steps]:
        """See `Progress.stage`."""
        stream = open_stderr()
        with _show_bar(title, total, stream) if stream.isatty() else _show_line(title, stream) as steps:
            yield steps


@contextmanager
def _show_line(title: str, stream: PatientStream) -> Iterator[Steps]:
    started = time.perf_counter()
    last = [""]

    def tell(words: str) -> None:
        last[0] = f" ({escape(words)})"

    yield Steps(tell=tell)
    stream.write(f"{title}: done in {time.perf_counter() - started:.1f} s{last[0]}\n")


@contextmanager
def _show_bar(title: str, total: int, stream: PatientStream) -> Iterator[Steps]:
    from rich.console import Console  # noqa: PLC0415 (only when a run starts)
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (TextColumn("{task.description:<20}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    said = TextColumn("{task.fields[said]}", markup=False)
    with Bars(*columns, said, console=Console(file=cast("IO[str]", stream))) as bars:
        task = bars.add_task(title, total=total, said="")
        yield Steps(lambda: bars.advance(task), lambda words: bars.update(task, said=escape(words)[-SHOWN:]))


SHOWN = 48  # characters of what `tell` shows, so that a line fits
