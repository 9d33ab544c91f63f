"""What 2:4 could gain on a GPU that is named, layer by layer, as `inspect --gpu` says before any work."""

from dataclasses import dataclass
from typing import Literal

GainLimit = Literal["compute", "memory"]


@dataclass(frozen=True)
class LayerGain:
    """The most that one layer could gain on a GPU, computed from its shape.

    Attributes:
        name: Node name.
        k: Reduction dimension.
        n: Output dimension.
        tokens: Rows that the product multiplies in one call.
        fp16: Largest ratio of dense over sparse time in fp16 or bf16; 1 for a layer that stays dense.
        int8: The same in int8.
        fp16_limit: What the dense layer waits for in fp16: the arithmetic, or the memory.
        int8_limit: The same in int8.
        is_likely: Whether its shape is one for which sparse kernels are known to be faster than dense ones.
        reason: Why the gain is what it is.
    """

    name: str
    k: int
    n: int
    tokens: int
    fp16: float
    int8: float
    fp16_limit: GainLimit
    int8_limit: GainLimit
    is_likely: bool
    reason: str


@dataclass(frozen=True)
class GpuGain:
    """The most that a model could gain on a GPU. It is a bound from a table of peak rates, never a measurement.

    Attributes:
        gpu: The GPU as its vendor calls it.
        source: Address of the figures that are used for it.
        inputs: Shape of each input of the call, by its name.
        layers: Every layer whose tokens could be counted, in network order.
        fp16: Time of all these layers dense over their time with the eligible ones sparse, in fp16 or bf16.
        int8: The same in int8.
        fp16_likely: As `fp16`, where only layers of a likely shape gain.
        int8_likely: As `int8`, where only layers of a likely shape gain.
        not_counted: Names of the layers whose tokens could not be counted.
    """

    gpu: str
    source: str
    inputs: dict[str, tuple[int, ...]]
    layers: tuple[LayerGain, ...]
    fp16: float
    int8: float
    fp16_likely: float
    int8_likely: float
    not_counted: tuple[str, ...] = ()
