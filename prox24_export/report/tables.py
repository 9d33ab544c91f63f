"""Tables as plain text, and figures as people read them; whoever renders them escapes them."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

UNITS = {
    "top1": (" %", " points"),
    "top5": (" %", " points"),
    "psnr": (" dB", " dB"),
}  # behind a metric, behind its change


class Table(NamedTuple):
    """A table of plain text: its title, the titles of its columns, and its rows."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, separated thousands and a real minus sign."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    written = f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"
    return written.replace("-", "−")


def signed_number(value: float, unit: str = "", digits: int = 3) -> str:
    """A change with its sign, which is ± where it is zero."""
    sign = "+" if value > 0 else "" if value else "±"
    return f"{sign}{number(value, digits)}{unit}"


def change_interval(low: float, high: float) -> str:
    """The interval of a change; two digits are all that an interval of 95 % can tell."""
    return f"95 % interval {signed_number(low, digits=2)} to {signed_number(high, digits=2)}"


def units(metric: str) -> tuple[str, str]:
    """What is written behind a metric, and behind its change."""
    return UNITS.get(metric.partition(" ")[0], ("", ""))


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return re.sub(r"^top(?=[15]\b)", "top-", metric)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval as ` (low to high)`; empty where an end is missing."""
    return "" if low is None or high is None else f" ({number(low, digits)} to {number(high, digits)})"
