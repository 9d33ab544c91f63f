"""Progress of long work: a line that people understand on a terminal and in a notebook, elsewhere a line a stage.

A pass calls `tick` and knows no more of it. The time left of a stage is, of each kind of step, the mean time of those
that are done times what is left of it. Where a run has told how long its stages may take, the time left is that of the
whole run.
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

LOGGER = logging.getLogger("prox24_export")
LEAST_ROOM = 24  # columns for what is told last; with fewer it is left out
LEAST_SHARE = 0.02  # of the work, before which nothing is said of the time left
TRUSTED = 0.1  # share of the steps of a stage from which on they tell its time, and not what was expected
EVERY = 0.1  # share of a stage between two lines of the log
MINUTE, HOUR = 60.0, 3600.0


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


@dataclass
class Course:
    """The stages of a run that are still to come, and how long they may take.

    Attributes:
        now: Returns the time in seconds.
        expected: Seconds that each stage to come may take, by its title, in their order; empty where nothing is known.
        alike: Titles of stages that do the same work, more or less of it: as much slower as one is, so are the others.
        current: The stage that began last; None before the first.
    """

    now: Callable[[], float] = time.perf_counter
    expected: dict[str, float] = field(default_factory=dict)
    alike: frozenset[str] = frozenset()
    current: "StageClock | None" = None

    def __post_init__(self) -> None:
        """Starts the clock."""
        self.started = self.now()

    def expect(self, seconds: Mapping[str, float], alike: frozenset[str] = frozenset()) -> None:
        """Takes what is known of the stages to come; see `Course`."""
        self.expected, self.alike = dict(seconds), alike

    def begin(self, title: str) -> float | None:
        """Begins a stage: returns the seconds that it was expected to take; None where nothing was known of it.

        What was expected before it does not come any more.
        """
        titles = list(self.expected)
        for earlier in titles[: titles.index(title)] if title in titles else ():
            del self.expected[earlier]
        return self.expected.pop(title, None)

    def end(self, title: str, slower: float) -> None:
        """Ends a stage that took so many times as long as was expected."""
        if title in self.alike:
            for other in self.alike & self.expected.keys():
                self.expected[other] *= slower

    def seconds_later(self, title: str, slower: float) -> float:
        """The seconds that the stages after this one may take, if it takes so many times as long as was expected."""
        scale = slower if title in self.alike else 1.0
        return sum(seconds * (scale if name in self.alike else 1.0) for name, seconds in self.expected.items())


@dataclass
class StageClock:
    """How far a stage is, and how long the rest will take.

    Attributes:
        title: What the stage does.
        work: The whole cost of each kind of step.
        now: Returns the time in seconds.
        place: Where the stage is.
        said: What is known so far.
        course: The run that the stage is of.
        expected: Seconds that the stage may take, as the run has told; None where it has not.
    """

    title: str
    work: Mapping[str, float]
    now: Callable[[], float] = time.perf_counter
    place: str = ""
    said: str = ""
    course: Course = field(default_factory=Course)
    expected: float | None = None
    _done: dict[str, float] = field(default_factory=dict)
    _spent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Starts the clock."""
        self.started = self._last = self.now()

    def advance(self, kind: str, cost: float) -> None:
        """Counts a step that ends now; a kind that the stage does not know counts as its only one."""
        kind = kind if kind in self.work else next(iter(self.work))
        now = self.now()
        self._done[kind] = min(self.work[kind], self._done.get(kind, 0.0) + cost)
        self._spent[kind] = self._spent.get(kind, 0.0) + now - self._last
        self._last = now

    def seconds_left(self) -> float | None:
        """The seconds until the end of the stage; None before every kind of step was seen, or too little is done."""
        left = 0.0
        for kind, whole in self.work.items():
            done = self._done.get(kind, 0.0)
            if whole > 0 and done <= 0:
                return None
            left += self._spent.get(kind, 0.0) * (whole - done) / done if done else 0.0
        spent = sum(self._spent.values())
        if spent + left <= 0 or spent / (spent + left) < LEAST_SHARE:
            return None
        return max(0.0, left - (self.now() - self._last))

    def run_seconds_left(self) -> float | None:
        """The seconds until the end of the run; of the stage where nothing is known of the others; None as there."""
        left = self.seconds_left()
        if self.expected is None:
            return None if left is None else left + self.course.seconds_later(self.title, 1.0)
        foreseen = max(0.0, self.expected - (self.now() - self.started))
        if left is None:
            return foreseen + self.course.seconds_later(self.title, 1.0)
        trust = min(1.0, self._step_share() / TRUSTED)  # what the first steps took says little of the others
        slower = 1 + trust * (self.measure_slower(left) - 1)
        return trust * left + (1 - trust) * foreseen + self.course.seconds_later(self.title, slower)

    def measure_slower(self, left: float = 0.0) -> float:
        """How many times as long as expected the stage takes, if so many seconds are left of it."""
        return (self.now() - self.started + left) / self.expected if self.expected else 1.0

    def share(self) -> float:
        """The share of the run, or of the stage, that is done: of its time where that is known, else of its steps."""
        left = self.run_seconds_left()
        is_run = self.expected is not None or bool(self.course.expected)
        spent = self.now() - (self.course.started if is_run else self.started)
        if left is not None:
            return spent / (spent + left) if spent + left else 0.0
        return self._step_share()

    def _step_share(self) -> float:
        whole = sum(self.work.values())
        return sum(self._done.values()) / whole if whole else 0.0

    def describe(self, width: int) -> str:
        """Describes the stage on one line, in at most `width` columns; whole parts are left out, numbers never cut."""
        left = self.run_seconds_left()
        parts = [f"{min(99, int(100 * self.share()))} %", *([describe_time(left)] if left is not None else [])]
        for head in ([self.title, self.place], [self.title], [self.place]):
            line = " · ".join(filter(None, (*head, *parts)))
            if len(line) <= width:
                break
        room = width - len(line) - len(" · ")
        if not self.said or room < min(LEAST_ROOM, len(self.said)):
            return line
        return f"{line} · {self.said if len(self.said) <= room else '…' + self.said[1 - room :]}"


def describe_time(seconds: float) -> str:
    """Describes the time left as people say it: a number that is not more exact than the estimate."""
    if seconds < 10:  # noqa: PLR2004 - seconds
        return "a few seconds"
    if seconds < MINUTE - 2.5:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 1.5 * HOUR:
        return f"about {max(1, round(seconds / MINUTE))} min"
    return f"about {seconds / HOUR:.1f} h"


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
