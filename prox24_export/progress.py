"""Progress on long work: bars on a terminal, silence elsewhere. A pass calls `tick` and knows nothing of this."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Where a pipeline says how far it is."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """A bar of `total` steps; calling what it yields advances it by one."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[], None]]:  # noqa: ARG002 (the protocol's names)
        """See `Progress`."""
        yield lambda: None


class Terminal:
    """Bars on stderr, only where that is a terminal: not in a log, whatever a CI service says of colours."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """See `Progress`."""
        if not sys.stderr.isatty():
            yield lambda: None
            return
        from rich.console import Console  # noqa: PLC0415 (only when a run starts)
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as Bars  # noqa: PLC0415

        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=total)
            yield lambda: bars.advance(task)
