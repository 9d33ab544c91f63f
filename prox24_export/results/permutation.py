"""What a run found of channels that may change places, as data."""

from dataclasses import dataclass
from typing import Literal

SpaceState = Literal["permuted", "kept", "fixed"]


@dataclass(frozen=True)
class SpaceReport:
    """Channels that are stored in the same places, and what became of their order.

    Attributes:
        name: Name of the first layer that reads the channels.
        channels: How many there are.
        blocks: In how many blocks they lie; a channel changes its place only within its own.
        readers: Names of the layers whose groups of four the order decides.
        state: `permuted`, `kept` where another order promises too little, `fixed` where there can be none.
        reason: Why the order is kept or fixed; empty where it changes.
        promised: By the search, the share by which the readers' errors together become smaller; None where none was
            made.
        found: The same as the solver finds it on a sample of rows of each reader; None where that would take too long.
        order: For each place, the channel that comes there; empty where every channel stays.
    """

    name: str
    channels: int
    blocks: int
    readers: tuple[str, ...]
    state: SpaceState
    reason: str = ""
    promised: float | None = None
    found: float | None = None
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class StoredAxis:
    """An axis of a stored tensor.

    Attributes:
        tensor: Name of the tensor.
        axis: The axis, counted from 0.
    """

    tensor: str
    axis: int


@dataclass(frozen=True)
class AxisOrder:
    """A new order of entries, and the axes that have it: `copy = numpy.take(source, order, axis)`.

    Attributes:
        order: For each entry of the copy, the entry of the source that it is.
        axes: The axes.
    """

    order: tuple[int, ...]
    axes: tuple[StoredAxis, ...]


@dataclass(frozen=True)
class PermutationReport:
    """The order of input channels, chosen before anything is pruned.

    Attributes:
        reason: Why no order was changed, or how many were, in one sentence.
        spaces: The channel spaces of the model.
        orders: Every axis of a stored tensor whose entries have another order than in the source.
        seconds: Wall time.
    """

    reason: str
    spaces: tuple[SpaceReport, ...] = ()
    orders: tuple[AxisOrder, ...] = ()
    seconds: float = 0.0
