"""What the parts of the GPU benchmark share: groups in order of importance, a time limit, results after every group."""

import argparse
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.meter import Meter, NoGpuError, cuda_meter
from benchmarks.results_files import RESULTS, write_results
from prox24_export.errors import Prox24Error, first_line

LIMIT = 210.0  # seconds; with torch's start and the machine's own delays a part stays below four minutes
PACKAGES = ("torch", "triton", "numpy", "tensorrt")

Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What a group measured.

    Attributes:
        rows: For the JSON file.
        markdown: The same for readers, without a heading.
    """

    rows: Sequence[Row]
    markdown: str


@dataclass(frozen=True)
class Group:
    """Measurements that belong together and are written together.

    Attributes:
        title: Heading of its results.
        seconds: About how long it takes; it is not begun when less time is left.
        measure: Takes the measurements.
    """

    title: str
    seconds: float
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class Part:
    """One of the benchmark's scripts.

    Attributes:
        name: Of its result files.
        title: What it measures, in one sentence.
        groups: Lists what it measures on a device, what matters most first; runs nothing on the device.
    """

    name: str
    title: str
    groups: Callable[[Meter], Sequence[Group]]


@dataclass
class Results:
    """What a part has so far.

    Attributes:
        facts: Device, versions and time limit.
        sections: What was measured, by title of the group.
        failed: Why a group has no results, by title.
        left_out: Titles of the groups for which no time was left, with how much was.
        seconds: Since the part was started.
        finished: Whether every group had its turn.
    """

    facts: Mapping[str, Any]
    sections: dict[str, Measured] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False

    def rows(self) -> list[Row]:
        """All rows, each with the title of its group."""
        return [{"group": title, **row} for title, measured in self.sections.items() for row in measured.rows]

    def json_facts(self) -> dict[str, Any]:
        """Everything but the rows."""
        return {
            **self.facts,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "failed": self.failed,
            "left_out": self.left_out,
        }

    def markdown(self) -> str:
        """Everything, for readers."""
        lines = [", ".join(f"{name} {value}" for name, value in self.facts.items()) + ".", ""]
        if not self.finished:
            lines += ["**Not finished**: the run was stopped before every group had its turn.", ""]
        for title, measured in self.sections.items():
            lines += [f"## {title}", "", measured.markdown.rstrip(), ""]
        for heading, entries in (("Failed", self.failed), ("Left out", self.left_out)):
            if entries:
                lines += [f"## {heading}", "", *(f"- {title}: {why}" for title, why in entries.items()), ""]
        return "\n".join(lines)


def run_part(part: Part, arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and, if asked to, writes one part.

    Returns:
        Exit code: 0 if every group that was begun has results, 1 if one failed, 2 if there is no CUDA GPU.
    """
    started = time.monotonic()
    options = _parser(part).parse_args(arguments)
    try:
        meter = cuda_meter()
    except NoGpuError as error:
        print(error, file=sys.stderr)
        return 2
    facts = {"device": meter.name, **versions(), "limit_s": options.limit}

    def keep(results: Results) -> None:
        if options.write is not None:
            write_results(
                part.name, results.rows(), results.markdown(), facts=results.json_facts(), folder=options.write
            )

    results = measure_groups(part.groups(meter), Results(facts), keep, lambda: time.monotonic() - started)
    return 1 if results.failed else 0


def measure_groups(
    groups: Iterable[Group], results: Results, keep: Callable[[Results], None], elapsed: Callable[[], float]
) -> Results:
    """Takes the groups in turn and keeps the results after each; a group that fails takes none of the others with it.

    Args:
        groups: What to measure.
        results: Where it goes; `facts["limit_s"]` is the time limit in seconds.
        keep: Called with the results after every group, so that a killed run leaves what it measured.
        elapsed: Seconds since the part was started.
    """
    limit = float(results.facts["limit_s"])
    for group in groups:
        left = limit - elapsed()
        if left < group.seconds:
            results.left_out[group.title] = f"{max(0.0, left):.0f} s were left, it takes about {group.seconds:.0f} s"
            continue
        print(f"{group.title} ({elapsed():.0f} s)", file=sys.stderr, flush=True)
        try:
            results.sections[group.title] = measured = group.measure()
        except Exception as error:  # noqa: BLE001 - whatever one group meets, the others have figures of their own
            if isinstance(error, Prox24Error):
                print(error, file=sys.stderr)
            else:
                traceback.print_exc()
            results.failed[group.title] = first_line(error)
        else:
            print(f"## {group.title}\n\n{measured.markdown}\n", flush=True)
        results.seconds = elapsed()
        keep(results)
    results.seconds, results.finished = elapsed(), True
    keep(results)
    return results


def versions() -> dict[str, str]:
    """Versions of the packages that a figure depends on, where they are installed, and of CUDA."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows as a Markdown table.

    Args:
        rows: What to show; an entry that a row lacks, or None, leaves its cell empty.
        columns: Heading of each column, by the key that its rows have.
    """
    lines = [f"| {' | '.join(columns.values())} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(row.get(key)) for key in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parser(part: Part) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=part.title)
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=RESULTS,
        metavar="FOLDER",
        help=f"write {part.name}.json and {part.name}.md after every group, by default to benchmarks/results",
    )
    parser.add_argument(
        "--limit",
        type=_seconds,
        default=LIMIT,
        metavar="SECONDS",
        help="time limit: a group for which too little time is left is not begun (default: %(default)g)",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds. Got {text!r}")
    return seconds
