"""Progress of long work: a line that people understand on a terminal and in a notebook, elsewhere a line a stage.

A pass calls `tick` and knows no more of it.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast

from prox24_export.process.interrupts import raise_if_interrupted
from prox24_export.process.printable import escape
from prox24_export.process.stderr import PatientStream, open_stderr
from prox24_export.process.time_left import Course, StageClock

LOGGER = logging.getLogger("prox24_export")
EVERY = 0.1  # share of a stage between two lines of the log


@dataclass(frozen=True)
class Steps:
    """The progress of one stage; calling it advances the stage by one step.

    Attributes:
        advance: Advances the stage by one step of a kind and a cost, as `Progress.stage` was told them.
        tell: Shows a few words on what is known so far, e.g. the error of the last layer.
        place: Shows where the stage is, e.g. `layer 9 of 20`.
    """

    advance: Callable[[str, float], None] = lambda _kind, _cost: None
    tell: Callable[[str], None] = lambda _words: None
    place: Callable[[str], None] = lambda _words: None

    def __call__(self, kind: str = "", cost: float = 1.0) -> None:
        """Advances the stage by one step.

        Args:
            kind: The kind of the step, where the stage has several.
            cost: Its share in the work of this kind, in the unit that the stage was told.

        Raises:
            KeyboardInterrupt: A signal came, and compiled code swallowed its exception.
        """
        raise_if_interrupted()
        self.advance(kind, cost)


class Progress(Protocol):
    """Shows how far a pipeline has come."""

    def stage(self, title: str, total: float, work: Mapping[str, float] | None = None) -> AbstractContextManager[Steps]:
        """Begins a stage, which ends with the block.

        Args:
            title: What it does.
            total: The number of its steps.
            work: The whole cost of each kind of step by its name; None where all steps are alike.
        """


class Silent:
    """Progress that is not shown."""

    @contextmanager
    def stage(self, title: str, total: float, work: Mapping[str, float] | None = None) -> Iterator[Steps]:  # noqa: ARG002 (the protocol's names)
        """See `Progress.stage`."""
        yield Steps()


@dataclass(frozen=True)
class Followed:
    """Progress of a run that may tell how long its stages will take.

    Attributes:
        course: The run that is shown.
    """

    course: Course = field(default_factory=Course)


class Terminal(Followed):
    """Progress on stderr: a line with the time left on a terminal, else one line for each stage that is done.

    There are no colours where `NO_COLOR` is set.
    """

    def begin(self) -> "Terminal":
        """Gives the first sign of life, before libraries are loaded, on a terminal; returns itself."""
        stream = open_stderr()
        if stream.isatty():
            stream.write("loading libraries and the model …\n")
            stream.flush()
        return self

    @contextmanager
    def stage(self, title: str, total: float, work: Mapping[str, float] | None = None) -> Iterator[Steps]:
        """See `Progress.stage`."""
        stream, clock = open_stderr(), _begin(self.course, title, work or {"": total})
        with _show_live(clock, stream) if stream.isatty() else _show_line(clock, stream) as steps:
            yield steps
        self.course.end(title, clock.measure_slower())


class Logged(Followed):
    """Progress as messages of level INFO of the logger `prox24_export`: a line for each tenth of the way."""

    @contextmanager
    def stage(self, title: str, total: float, work: Mapping[str, float] | None = None) -> Iterator[Steps]:
        """See `Progress.stage`."""
        clock, told = _begin(self.course, title, work or {"": total}), [0.0]

        def show() -> None:
            if clock.share() >= told[0] + EVERY:
                told[0] = clock.share()
                LOGGER.info("%s", clock.describe(200))

        yield _make_steps(clock, show)
        LOGGER.info("%s", _describe_end(clock))
        self.course.end(title, clock.measure_slower())


class Notebook(Followed):
    """Progress in a Jupyter notebook: one line a stage, written anew in its place."""

    @contextmanager
    def stage(self, title: str, total: float, work: Mapping[str, float] | None = None) -> Iterator[Steps]:
        """See `Progress.stage`."""
        from IPython.display import Pretty, display  # noqa: PLC0415 - only notebooks have it

        clock, shown = _begin(self.course, title, work or {"": total}), [time.perf_counter()]
        handle: Any = display(Pretty(clock.describe(100)), display_id=True)

        def show() -> None:
            if time.perf_counter() - shown[0] >= 0.2:  # noqa: PLR2004 - seconds; more often nobody can read
                shown[0] = time.perf_counter()
                handle.update(Pretty(clock.describe(100)))

        try:
            yield _make_steps(clock, show)
            self.course.end(title, clock.measure_slower())
        finally:
            handle.update(Pretty(_describe_end(clock)))


def can_foresee(progress: Progress) -> bool:
    """Whether the time left of the whole run is shown; an object of the user's own is told nothing, as silence is."""
    return isinstance(progress, Followed)


def foresee(progress: Progress, seconds: Mapping[str, float], alike: frozenset[str] = frozenset()) -> None:
    """Tells how long the stages of a run may take, so that the time left can be that of the whole run.

    Args:
        progress: Where progress is shown; an object of the user's own is told nothing.
        seconds: Seconds of each stage to come, by its title; and of whatever is done between stages.
        alike: Titles of stages that do the same work; see `Course`.
    """
    if isinstance(progress, Followed):
        progress.course.expect(seconds, alike)


def _begin(course: Course, title: str, work: Mapping[str, float]) -> StageClock:
    """Begins a stage of a run."""
    clock = StageClock(title, work)
    clock.course, clock.expected = course, course.begin(title)
    course.current = clock
    return clock


def choose_progress(wanted: Progress | bool | None) -> Progress:
    """Chooses how the Python API shows progress.

    Args:
        wanted: What was asked for: None logs it; True shows it, in a notebook or on stderr; False shows nothing.
    """
    if wanted is None:
        return Logged()
    if not isinstance(wanted, bool):
        return wanted
    if not wanted:
        return Silent()
    return Notebook() if _is_in_notebook() else Terminal()


def _is_in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; nothing is imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _make_steps(clock: StageClock, show: Callable[[], None]) -> Steps:
    """Makes the steps of a stage: they move its clock, and show it."""

    def advance(kind: str, cost: float) -> None:
        clock.advance(kind, cost)
        show()

    def tell(words: str) -> None:
        clock.said = escape(words)
        show()

    def place(words: str) -> None:
        clock.place = words
        show()

    return Steps(advance, tell, place)


def _describe_end(clock: StageClock) -> str:
    said = f" ({clock.said})" if clock.said else ""
    return f"{clock.title}: done in {clock.now() - clock.started:.1f} s{said}"


@contextmanager
def _show_line(clock: StageClock, stream: PatientStream) -> Iterator[Steps]:
    yield _make_steps(clock, lambda: None)
    stream.write(f"{_describe_end(clock)}\n")


@contextmanager
def _show_live(clock: StageClock, stream: PatientStream) -> Iterator[Steps]:
    from rich.console import Console  # noqa: PLC0415 (only when a run starts)
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=cast("IO[str]", stream), highlight=False, force_jupyter=False)
    style = "" if "NO_COLOR" in os.environ else "cyan"
    is_done = [False]

    def draw() -> Text:
        width = console.width - 1  # a line that fills the last column is broken by some terminals
        if not is_done[0]:
            return Text(clock.describe(width), style, no_wrap=True, overflow="ignore")
        end = _describe_end(clock)
        return Text(end if len(end) <= width else end.partition(" (")[0], style, no_wrap=True, overflow="ignore")

    with Live(get_renderable=draw, console=console, refresh_per_second=4):
        yield _make_steps(clock, lambda: None)
        is_done[0] = True
