"""CPU latency of both models with ONNX Runtime, for completeness: no sparse speed-up exists there."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prox24_export.engines.timing.latency import Procedure, Reference, measure_latency
from prox24_export.facts import machine
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.results.engine import EngineReport, LatencyPoint

NO_SPARSE_KERNELS = (
    "ONNX Runtime has no 2:4 sparse kernels on a CPU: no sparse speed-up exists there, whatever the ratio of two times"
)


class OnnxRuntimeTimed:
    """A model in an ONNX Runtime session on the CPU, with fixed inputs; see `latency.Timed`.

    The session's threads do not spin between runs: they would take the cores from the other session, with which this
    one is timed in turns.

    Attributes:
        name: What messages call the model.
    """

    def __init__(
        self, name: str, graph: OnnxGraph, feeds: Feeds, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Makes the session.

        Args:
            name: What messages call the model.
            graph: The model.
            feeds: The inputs by name.
            clock: Returns the time in seconds.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        self.name = name
        self._run = graph.runner()
        self._names, self._feeds, self._clock = graph.outputs, dict(feeds), clock

    def outputs(self) -> dict[str, Array]:
        """Runs one inference and returns its outputs by name."""
        return dict(zip(self._names, self._run(self._feeds), strict=True))

    def times(self, runs: int) -> list[float]:
        """Returns the milliseconds of each of `runs` inferences; there is nothing to transfer."""
        result = []
        for _ in range(runs):
            start = self._clock()
            self._run(self._feeds)
            result.append(1000 * (self._clock() - start))
        return result

    def close(self) -> None:
        """Frees the session."""
        self._run = _refuse_closed


def bench(dense: Path, sparse: Path, batches: Sequence[Feeds], procedure: Procedure | None = None) -> EngineReport:
    """Times both models in turns on every batch.

    Args:
        dense: The ONNX file of the dense model.
        sparse: The ONNX file of the sparse model.
        batches: The inputs by name of each batch, which gives one latency point.
        procedure: How long and how often to measure; the defaults where None.

    Raises:
        InputError: A file cannot be read, loaded or run.
    """
    import onnxruntime  # noqa: PLC0415 (`front_onnx.runtime` sets up how it is loaded)

    left, right = OnnxGraph(dense), OnnxGraph(sparse)
    widened = sorted({*left.runs_in_float32, *right.runs_in_float32})
    return EngineReport(
        engine="onnxruntime",
        version=onnxruntime.__version__,
        precision="fp32" if widened else _find_precision(left),
        device=f"CPU, {machine.describe_machine()['cores']} cores, {machine.describe_machine()['processor']}",
        not_measured=NO_SPARSE_KERNELS,
        latency=tuple(_time_batch(left, right, feeds, widened, procedure) for feeds in batches),
    )


def _time_batch(
    dense: OnnxGraph, sparse: OnnxGraph, feeds: Feeds, widened: Sequence[str], procedure: Procedure | None
) -> LatencyPoint:
    copies = [f"float32 copies were run: ONNX Runtime has no CPU kernels for {', '.join(widened)}"] if widened else []
    models = OnnxRuntimeTimed("dense", dense, feeds), OnnxRuntimeTimed("sparse", sparse, feeds)
    try:
        return measure_latency(
            *models,
            None,
            {name: tuple(array.shape) for name, array in feeds.items()},
            reference=Reference.of(dense, sparse, feeds, "fp32"),
            procedure=procedure,
            warnings=(NO_SPARSE_KERNELS, *copies),
        )
    finally:
        for model in models:
            model.close()


def _find_precision(graph: OnnxGraph) -> str:
    """Finds the precision of the largest stored weight that a linear layer reads."""
    from prox24_export.passes.graph.protocol import Candidate  # noqa: PLC0415

    layers = [layer for layer in graph.operators() if isinstance(layer, Candidate)]
    largest = max(layers, key=lambda layer: layer.layout.shape[0] * layer.layout.shape[1], default=None)
    names = {"float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
    return names.get(largest.dtype if largest else "", "fp32")


def _refuse_closed(_feeds: Feeds) -> Sequence[Array]:
    raise RuntimeError("the session is closed")
