"""The order of input channels as people read it: one sentence, a table of the spaces, a picture of one of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from prox24_export.report.tables import Table, number
from prox24_export.results.permutation import PermutationReport, SpaceReport

GROUP = 4  # channels
MOST_LINES = 64  # of the picture: more of them are a grey area
WIDTH, HEIGHT = 420, 300  # of the picture, in pixels
HEADER = ("First layer", "Channels", "Layers", "Order", "Promised", "Found")


class ChannelLine(NamedTuple):
    """A channel in the picture: where it was, where it is, and whether the group that it is in is an even one."""

    before: float
    after: float
    is_even: bool


class Picture(NamedTuple):
    """One space: a line for each of its first channels in the new order."""

    space: SpaceReport
    lines: Sequence[ChannelLine]
    width: int = WIDTH
    height: int = HEIGHT


def summarise(permutation: PermutationReport) -> str:
    """What became of the order of channels, in one line."""
    gains = [space.found if space.found is not None else space.promised for space in permutation.spaces if space.order]
    known = [gain for gain in gains if gain is not None]
    if not known:
        return f"channels not permuted: {permutation.reason}"
    low, high = number(100 * min(known)), number(100 * max(known))
    return f"channels permuted: {permutation.reason}, with {low} to {high} % less error in the layers that read them"


def list_spaces(permutation: PermutationReport | None) -> Table:
    """A row for each channel space; none where nothing was searched."""
    spaces = permutation.spaces if permutation is not None else ()
    return Table(f"Channel spaces ({len(spaces):,})", HEADER, [_row(space) for space in spaces])


def draw(permutation: PermutationReport | None) -> Picture | None:
    """Draws the space whose order changes most layers; None where none has a new order."""
    permuted = [space for space in (permutation.spaces if permutation is not None else ()) if space.order]
    if not permuted:
        return None
    space = max(permuted, key=lambda space: (len(space.readers), space.channels))
    step = HEIGHT / max(1, len(space.order) - 1)
    shown = space.order[:MOST_LINES]
    return Picture(space, [ChannelLine(old * step, new * step, new // GROUP % 2 == 0) for new, old in enumerate(shown)])


def describe_space(space: SpaceReport) -> dict[str, Any]:
    """A space as `inspect --channels --format json` has it: nothing is searched yet, so it has no gain and no order."""
    free = space.state != "fixed"
    return {
        "name": space.name,
        "channels": space.channels,
        "blocks": space.blocks,
        "readers": list(space.readers),
        "free": free,
        "reason": "" if free else space.reason,
    }


def _row(space: SpaceReport) -> tuple[str, ...]:
    state = "new" if space.state == "permuted" else f"{space.state}: {space.reason}"
    blocks = f" in {space.blocks:,} blocks" if space.blocks > 1 else ""
    gains = ("" if gain is None else f"−{number(100 * gain)} %" for gain in (space.promised, space.found))
    return (space.name, f"{space.channels:,}{blocks}", f"{len(space.readers):,}", state, *gains)
