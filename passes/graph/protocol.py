"""What every pass speaks of: linear layers, skipped nodes with their reason, and the graph both front ends keep."""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.passes.graph.activations import View
from prox24_export.passes.graph.arrays import Array, as_numpy_dtype, find_largest_value
from prox24_export.passes.graph.experts import Expert, name_part
from prox24_export.passes.graph.layout import Layout

Feeds = Mapping[str, Array]
Runner = Callable[[Feeds], Sequence[Array]]  # outputs in the order in which the graph has them


class Reason(enum.Enum):
    """Why a node stays dense; the value is the sentence the user reads."""

    GROUPED_CONV = "grouped or depthwise convolution: TensorRT has no sparse kernel for it"
    TRANSPOSED_CONV = "transposed convolution: TensorRT has no sparse kernel for it"
    DEFORMABLE_CONV = "deformable convolution: TensorRT has no sparse kernel for it"
    NOT_MULTIPLE_OF_FOUR = "the reduction dimension is not a multiple of 4"
    NOT_CONSTANT = "the weight is not a constant of the model"
    NO_ACTIVATION = "both operands are constants: nothing is computed from the input"
    BATCHED_WEIGHT = "the weight is batched (more than two dimensions), and not by expert"
    VECTOR_WEIGHT = "the weight is a vector, not a matrix"
    WEIGHT_TYPE = "the weight is not float32, float16, bfloat16 or float64"
    EINSUM = "Einsum: no sparse kernel reads its operands"
    INTEGER_OPERATOR = "integer or quantised operator: the float weight is no longer in the file"
    QUANTISED_WEIGHT = "the weight is stored as integers behind DequantizeLinear: prune before quantising"
    FUSED_OPERATOR = "fused vendor operator: prune the model before it is fused"
    RECURRENT = "recurrent layer: TensorRT has no sparse kernel for it"
    NO_BATCH_AXIS = "convolution without a batch axis"
    IN_SUBGRAPH = "inside an If, Loop or Scan body"
    IN_FUNCTION = "inside a model-local function"
    READ_ELSEWHERE = "the weight is also read by a node that is not a linear layer"
    READ_IN_SUBGRAPH = "the weight is also read inside a subgraph"
    IS_GRAPH_OUTPUT = "the weight is also a graph output"
    TIED_TO_EMBEDDING = "the weight is tied to an embedding lookup"
    TWO_AXES = "the weight is used along two different axes: no 2:4 pattern fits both"
    NOT_REACHED = "not reached by calibration: nothing is known of its input"
    EXCLUDED = "excluded by the user"


@dataclass(frozen=True)
class Use:
    """One node that multiplies by a weight.

    Attributes:
        node: Name of the node.
        activation: Name of the value that is multiplied.
        view: How that value becomes a matrix [tokens, K].
        residual: Name of the activation that is added to the product, past constant biases; None where there is none.
        expert: Which rows of the activation are multiplied; None: all of them.
    """

    node: str
    activation: str
    view: View
    residual: str | None = None
    expert: Expert | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of every value that calibration has to see."""
        return (self.activation, *(self.expert.reads if self.expert else ()))

    @property
    def label(self) -> str:
        """Name of the node, and of the expert where it multiplies by several."""
        return name_part(self.node, self.expert.index if self.expert else None)


@dataclass(frozen=True)
class Linear:
    """A weight that can be made 2:4, with every node that multiplies by it.

    Attributes:
        name: Name of the first node that uses the weight, and of the expert where it is one of several.
        op: Its operator.
        weight: Name of the stored weight.
        dtype: Type in which the weight is stored, e.g. `float16`.
        layout: How the stored weight becomes `W` [N, K], groups of four along K.
        k: Reduction dimension (a convolution's is C_in times the kernel's size).
        n: Output dimension.
        uses: Every use; all share the layout.
        notes: What the user should know although the layer is pruned.
        limit: Largest magnitude that the casts between weight and node can hold.
    """

    name: str
    op: str
    weight: str
    dtype: str
    layout: Layout
    k: int
    n: int
    uses: tuple[Use, ...]
    notes: tuple[str, ...] = ()
    limit: float = math.inf

    @property
    def parameters(self) -> int:
        """Number of entries of the weight."""
        return self.k * self.n

    def to_matrix(self, stored: Array) -> Float[Tensor, "N K"]:
        """The stored weight as a matrix, float32 (float64 where it is stored so)."""
        matrix = self.layout.to_matrix(stored)
        wide = np.float64 if matrix.dtype == np.float64 else np.float32
        return torch.from_numpy(np.ascontiguousarray(matrix.astype(wide)))

    def to_stored(self, matrix: Float[Tensor, "N K"]) -> Array:
        """A matrix in the stored shape and dtype: +0.0 for zeros, clipped to what weight and casts can hold."""
        limit = min(self.limit, find_largest_value(self.dtype))
        clipped = matrix.detach().clamp(-limit, limit).cpu().numpy()
        array = self.layout.from_matrix(clipped).astype(as_numpy_dtype(self.dtype))
        array[array == 0] = 0
        return array


@dataclass(frozen=True)
class Skipped:
    """A node that stays dense, and why.

    Attributes:
        name: Name of the node.
        op: Its operator.
        weight: Name of the stored weight, where there is one.
        k: Reduction dimension, where it is known.
        n: Output dimension, where it is known.
        parameters: Number of entries of the weight; 0 where there is none.
        reason: Why.
        detail: The figure or the name behind the reason; may be empty.
    """

    name: str
    op: str
    weight: str | None
    k: int | None
    n: int | None
    parameters: int
    reason: Reason
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The reason as the user reads it."""
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value


@dataclass(frozen=True)
class Candidate:
    """A linear operator with a constant weight, as a front end sees it, before any policy."""

    use: Use
    op: str
    weight: str
    dtype: str
    layout: Layout
    group_size: int  # entries that are contiguous along K: K itself, or C_in of a convolution
    limit: float = math.inf  # largest magnitude that the casts between weight and node can hold


@dataclass(frozen=True)
class Node:
    """A node of the main graph: `inputs` are every value it reads, subgraph captures included."""

    index: int
    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_random: bool = False


@dataclass(frozen=True)
class Input:
    """A value the user feeds.

    Attributes:
        name: Its name.
        dtype: NumPy dtype of an array to feed.
        shape: Sizes; a name or None where the size is dynamic. None where even the rank is unknown.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None


class TracedGraph(Protocol):
    """What a pass may ask of a graph, whichever front end it came from.

    Values between nodes are whatever the front end computes with; what `compile` observes and what is fed are arrays or
    tensors.
    """

    @property
    def path(self) -> Path:
        """Where the model was read from."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the user feeds."""

    @property
    def parameters(self) -> int:
        """Entries of all stored weights."""

    @property
    def gathered_rows(self) -> Mapping[str, int]:
        """Rows of the embedding table that an integer input indexes, by name of the input."""

    @property
    def runs_in_float32(self) -> tuple[str, ...]:
        """Types for which the runtime has no kernels here, so that a float32 copy is executed."""

    @property
    def predicts_next_token(self) -> bool:
        """Whether the model is a causal language model: perplexity then is its metric."""

    def runner(self) -> Runner:
        """The whole model: feeds to outputs, in the order of `outputs`.

        Raises:
            InputError: The model cannot be run.
        """

    @property
    def nodes(self) -> Sequence[Node]:
        """Main graph in topological order."""

    @property
    def constants(self) -> frozenset[str]:
        """Names of values stored in the model."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""

    def operators(self) -> Sequence[Candidate | Skipped]:
        """Every linear-like node, in topological order."""

    def weight(self, linear: Linear) -> Float[Tensor, "N K"]:
        """The stored weight as a matrix, float32 (float64 where stored so)."""

    def stored(self, name: str) -> Array:
        """A stored tensor, in its own dtype and shape."""

    def compile(
        self, nodes: Sequence[Node], sample: Mapping[str, Any], fetches: Sequence[str], weights: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """A function that runs `nodes` on feeds typed like `sample`; `weights` replaces stored ones by name."""
