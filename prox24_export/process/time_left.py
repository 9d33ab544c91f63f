"""How long a run will still take: its stage by the steps that are done, the stages after it by what is expected.

The time left of a stage is, of each kind of step, the mean time of those that are done times what is left of it. Where
a run has told how long its stages may take, the time left is that of the whole run.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

LEAST_ROOM = 24  # columns for what is told last; with fewer it is left out
LEAST_SHARE = 0.02  # of the work, before which nothing is said of the time left
TRUSTED = 0.1  # share of the steps of a stage from which on they tell its time, and not what was expected
MINUTE, HOUR = 60.0, 3600.0


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
