"""What all passes share: linear layers, skipped nodes with their reason, and the protocol of a traced graph."""

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
from prox24_export.passes.graph.grid import StoredGrid, StoredRange
from prox24_export.passes.graph.layout import Layout

Feeds = Mapping[str, Array]
Runner = Callable[[Feeds], Sequence[Array]]  # outputs in the order in which the graph has them


class Reason(enum.Enum):
    """Why a node stays dense. The value is the sentence that the user reads."""

    GROUPED_CONV = "grouped or depthwise convolution: TensorRT has no sparse kernel for it"
    TRANSPOSED_CONV = "transposed convolution: TensorRT has no sparse kernel for it"
    DEFORMABLE_CONV = "deformable convolution: TensorRT has no sparse kernel for it"
    NOT_MULTIPLE_OF_FOUR = "the reduction dimension is not a multiple of 4"
    NOT_CONSTANT = "the weight is not a constant of the model"
    COMPUTED = (
        "the weight is computed from constants by some operator: fold constants first "
        "(onnxsim, or polygraphy surgeon sanitize --fold-constants)"
    )
    COMPUTED_IN_PROGRAM = (
        "the weight is computed from parameters by some operator: store the result as a parameter first "
        "(torch.nn.utils.parametrize.remove_parametrizations), or export the model to ONNX"
    )
    SPARSE_INITIALIZER = "the weight is stored as a sparse_initializer"
    NO_ACTIVATION = "both operands are constants: nothing is computed from the input"
    BATCHED_WEIGHT = "the weight is batched (more than two dimensions), and not by expert"
    VECTOR_WEIGHT = "the weight is a vector, not a matrix"
    WEIGHT_TYPE = "the weight is not float32, float16, bfloat16 or float64"
    EINSUM = "Einsum: no sparse kernel reads its operands"
    INTEGER_OPERATOR = "integer or quantised operator: the float weight is no longer in the file"
    QUANTISED_WEIGHT = "the weight is stored as integers that cannot be pruned under their own scales"
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
        expert: The expert, which multiplies only some rows of the activation. None where all rows are multiplied.
    """

    node: str
    activation: str
    view: View
    residual: str | None = None
    expert: Expert | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all values that calibration has to see."""
        return (self.activation, *(self.expert.reads if self.expert else ()))

    @property
    def label(self) -> str:
        """Name of the node, with the index of the expert where the node multiplies by several."""
        return name_part(self.node, self.expert.index if self.expert else None)


@dataclass(frozen=True)
class Linear:
    """A weight that can be made 2:4, with every node that multiplies by it.

    Attributes:
        name: Name of the first node that uses the weight, with the index of the expert where it is one of several.
        op: Operator of that node.
        weight: Name of the stored weight.
        dtype: Type in which the weight is stored, such as `float16` or `int8`.
        layout: How the stored weight becomes `W` [N, K], with groups of four along K.
        k: Reduction dimension. That of a convolution is C_in times the number of entries of the kernel.
        n: Output dimension.
        uses: Every use of the weight; all share the layout.
        notes: Sentences that the user should know although the layer is pruned.
        limit: Largest magnitude that the casts between weight and node can hold.
        grid: How the stored integers become floats; None where floats are stored.
        ranges: What each QuantizeLinear between stored floats and node can hold.
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
    grid: StoredGrid | None = None
    ranges: tuple[StoredRange, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of entries of the weight."""
        return self.k * self.n

    def to_matrix(self, stored: Array) -> Float[Tensor, "N K"]:
        """Converts the stored weight to a float32 matrix [N, K] (float64 where it is stored as float64)."""
        matrix = self.layout.to_matrix(stored if self.grid is None else self.grid.to_floats(stored))
        wide = np.float64 if matrix.dtype == np.float64 else np.float32
        return torch.from_numpy(np.ascontiguousarray(matrix.astype(wide)))

    def to_stored(self, matrix: Float[Tensor, "N K"]) -> Array:
        """Converts a matrix [N, K] to the stored shape and dtype.

        Every zero becomes +0.0, and floats are clipped to what the stored type and what is behind it can hold.
        Where integers are stored, these are the nearest under the same scales, and every zero becomes the zero point.
        """
        if self.grid is not None:
            floats = self.layout.from_matrix(matrix.detach().cpu().numpy())
            return self.grid.to_integers(floats, self.limit)
        limit = min(self.limit, find_largest_value(self.dtype), torch.finfo(matrix.dtype).max)
        clipped = matrix.detach().clamp(-limit, limit).cpu().numpy()
        array = self.layout.from_matrix(clipped)
        for one in self.ranges:
            array = one.clip(array)
        array = array.astype(as_numpy_dtype(self.dtype))
        array[array == 0] = 0
        return array

    @property
    def rounding(self) -> Callable[[Tensor, slice], Tensor] | None:
        """What `round_rows` is where solved rows cannot be stored, or used, nearly as they are; else None."""
        return self.round_rows if self.grid is not None or self.ranges else None

    def round_rows(self, rows: Float[Tensor, "rows K"], part: slice) -> Float[Tensor, "rows K"]:
        """Rounds some rows of a matrix to what can be stored.

        Args:
            rows: The rows.
            part: Which rows of [N, K] they are.
        """
        whole = torch.zeros(self.n, self.k, dtype=rows.dtype)
        whole[part] = rows.detach().cpu()
        return self.to_matrix(self.to_stored(whole))[part].to(rows.device)

    def find_surviving(self, stored: Array) -> Array:
        """Finds the entries of the matrix [N, K] that are not zero, as bool, in the weight as it is stored."""
        surviving: Array = self.layout.to_matrix(count_from_zero(stored, self.grid)) != 0
        return surviving


def count_from_zero(stored: Array, grid: StoredGrid | None) -> Array:
    """Counts the steps of stored integers from their zero point, int32; stored floats are returned as they are."""
    return stored if grid is None else grid.count_steps(stored)


@dataclass(frozen=True)
class Skipped:
    """A node that stays dense, and why.

    Attributes:
        name: Name of the node.
        op: Operator of the node.
        weight: Name of the stored weight; None where there is none.
        k: Reduction dimension; None where it is not known.
        n: Output dimension; None where it is not known.
        parameters: Number of entries of the weight; 0 where there is none.
        reason: Why the node stays dense.
        detail: The figure or the name behind the reason. It may be empty.
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
        said: str = self.reason.value
        if self.reason in {Reason.COMPUTED, Reason.COMPUTED_IN_PROGRAM} and self.detail:
            return said.replace("some operator", self.detail)
        return f"{said} ({self.detail})" if self.detail else said


@dataclass(frozen=True)
class Candidate:
    """A linear operator with a constant weight, as a front end recognised it. Nothing is decided about it yet.

    Attributes:
        use: The node, and what it multiplies.
        op: Operator of the node.
        weight: Name of the stored weight.
        dtype: Type in which the weight is stored, such as `float16` or `int8`.
        layout: How the stored weight becomes `W` [N, K].
        group_size: Number of entries that are contiguous along K: K itself, or C_in of a convolution.
        limit: Largest magnitude that the casts between weight and node can hold.
        notes: Sentences that the user should know where the layer is pruned.
        grid: How the stored integers become floats; None where floats are stored.
        ranges: What each QuantizeLinear between stored floats and node can hold.
    """

    use: Use
    op: str
    weight: str
    dtype: str
    layout: Layout
    group_size: int
    limit: float = math.inf
    notes: tuple[str, ...] = ()
    grid: StoredGrid | None = None
    ranges: tuple[StoredRange, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node of the main graph.

    Attributes:
        index: Place of the node in the order in which its front end holds all nodes.
        name: Name of the node, which no other node has.
        op: Its operator.
        inputs: Names of all values that it reads, also of those that its subgraphs capture.
        outputs: Names of the values that it computes.
        is_random: Whether it draws random numbers.
    """

    index: int
    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_random: bool = False


@dataclass(frozen=True)
class Input:
    """A value that the user feeds.

    Attributes:
        name: Name of the input.
        dtype: NumPy dtype of the array to feed.
        shape: Size of each axis; a name or None where the size is dynamic. None where even the rank is unknown.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None


class StageCompiler(Protocol):
    """What runs some nodes of a graph: the graph itself, or what runs them on another device."""

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of the main graph that compute no constants, in topological order."""

    def compile(
        self, nodes: Sequence[Node], sample: Mapping[str, Any], fetches: Sequence[str], weights: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Makes a function that runs some nodes; see `TracedGraph.compile`."""


class TracedGraph(Protocol):
    """What a pass may ask of a graph, whichever front end opened it.

    Values between nodes have the type that the front end computes with. Values that are fed, and those that `compile`
    returns for observation, are arrays or tensors.
    """

    @property
    def path(self) -> Path:
        """The file or folder that the model was read from."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs that the user feeds."""

    @property
    def parameters(self) -> int:
        """Number of entries of all stored weights."""

    @property
    def gathered_rows(self) -> Mapping[str, int]:
        """Number of rows of the embedding table that an integer input indexes, by name of the input."""

    @property
    def runs_in_float32(self) -> tuple[str, ...]:
        """Types for which the runtime has no kernels on this machine, so that a float32 copy of the model is run."""

    @property
    def predicts_next_token(self) -> bool:
        """Whether the model is a causal language model, whose metric is perplexity."""

    def runner(self) -> Runner:
        """A function that runs the whole model: it takes feeds and returns outputs, in the order of `outputs`.

        Raises:
            InputError: The model cannot be run.
        """

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of the main graph that compute no constants, in topological order."""

    @property
    def constants(self) -> frozenset[str]:
        """Names of all values that depend on no input: stored ones, and what is computed from them alone."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""

    def operators(self) -> Sequence[Candidate | Skipped]:
        """Recognises every linear-like node, in topological order."""

    def expand(self, feeds: Feeds) -> "TracedGraph":
        """Makes a graph to look at, in whose main graph stands what a call runs, also from functions and branches.

        Nodes of this graph that are still there keep their names. What cannot be expanded stays as it is.

        Args:
            feeds: One batch by input name, which decides the branches.

        Returns:
            The graph; this one where there is nothing to expand.
        """

    def weight(self, linear: Linear) -> Float[Tensor, "N K"]:
        """Reads the weight of a layer as a float32 matrix [N, K] (float64 where it is stored as float64).

        Of a weight that is stored as integers, these are the floats that they stand for.
        """

    def stored(self, name: str) -> Array:
        """Reads a stored tensor by its name, in its own dtype and shape."""

    def compile(
        self, nodes: Sequence[Node], sample: Mapping[str, Any], fetches: Sequence[str], weights: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Makes a function that runs some nodes.

        Args:
            nodes: The nodes, in topological order.
            sample: Values by name, of the types that the function will be given.
            fetches: Names of the values that the function returns.
            weights: Weights by name that replace stored ones, in the stored shape and dtype.

        Returns:
            A function of values by name, which returns the fetched values by name.
        """
