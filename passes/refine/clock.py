"""The time that a refinement may take, all of it: measuring, trials and steps."""

import math
import time
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Clock:
    """Time that runs from when the clock is made.

    Attributes:
        limit: The most seconds; infinite where there is no limit.
        spent: Seconds that an earlier run has already taken.
        made: When the clock was made, by the counter of this process.
    """

    limit: float = math.inf
    spent: float = 0.0
    made: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How many seconds have been taken."""
        return self.spent + time.perf_counter() - self.made

    @property
    def left(self) -> float:
        """How many seconds are left of the limit."""
        return self.limit - self.seconds

    def until(self, share: float) -> "Clock":
        """The same clock with its limit at a share of the time that is left."""
        return replace(self, limit=self.seconds + share * self.left)
