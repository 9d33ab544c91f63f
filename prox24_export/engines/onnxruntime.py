"""CPU latency of both models with ONNX Runtime: for completeness, because no sparse speed-up exists there."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prox24_export import facts
from prox24_export.engines.timing.latency import Procedure, Reference, measure
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.results.engine import EngineReport, LatencyPoint

NO_SPARSE_KERNELS = (
    "ONNX Runtime has no 2:4 sparse kernels on a CPU: no sparse speed-up exists there, whatever the ratio of two times"
)


class OnnxRuntimeTimed:
    """A model in an ONNX Runtime session on the CPU, on fixed inputs; see `latency.Timed`.

    Its threads do not spin between runs: those of one session would take the cores from the other, which is timed in
    turns with it.
    """

    def __init__(
        self, name: str, graph: OnnxGraph, feeds: Feeds, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Makes the session; `clock` tells seconds.

        Raises:
            InputError: ONNX Runtime cannot load the model.
        """
        self.name = name
        self._run = graph.runner()
        self._names, self._feeds, self._clock = graph.outputs, dict(feeds), clock

    def outputs(self) -> dict[str, Array]:
        """One inference."""
        return dict(zip(self._names, self._run(self._feeds), strict=True))

    def times(self, runs: int) -> list[float]:
        """Milliseconds of each inference; there is nothing to transfer."""
        result = []
        for _ in range(runs):
            start = self._clock()
            self._run(self._feeds)
            result.append(1000 * (self._clock() - start))
        return result

    def close(self) -> None:
        """Frees the session."""
        self._run = _closed


def bench(dense: Path, sparse: Path, batches: Sequence[Feeds], procedure: Procedure | None = None) -> EngineReport:
    """Times both models in turns on every batch.

    Args:
        dense: ONNX file.
        sparse: ONNX file.
        batches: Inputs by name; one point each.
        procedure: How long and how often.

    Raises:
        InputError: A file cannot be read, loaded or run.
    """
    import onnxruntime  # noqa: PLC0415 (its loading is set up by `passes.runtime`)

    left, right = OnnxGraph(dense), OnnxGraph(sparse)
    widened = sorted({*left.runs_in_float32, *right.runs_in_float32})
    return EngineReport(
        engine="onnxruntime",
        version=onnxruntime.__version__,
        precision="fp32" if widened else _precision(left),
        device=f"CPU, {facts.machine()['cores']} cores, {facts.machine()['processor']}",
        not_measured=NO_SPARSE_KERNELS,
        latency=tuple(_point(left, right, feeds, widened, procedure) for feeds in batches),
    )


def _point(
    dense: OnnxGraph, sparse: OnnxGraph, feeds: Feeds, widened: Sequence[str], procedure: Procedure | None
) -> LatencyPoint:
    copies = [f"float32 copies were run: ONNX Runtime has no CPU kernels for {', '.join(widened)}"] if widened else []
    models = OnnxRuntimeTimed("dense", dense, feeds), OnnxRuntimeTimed("sparse", sparse, feeds)
    try:
        return measure(
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


def _precision(graph: OnnxGraph) -> str:
    """Of the largest stored weight that a linear layer reads."""
    from prox24_export.passes.graph.protocol import Candidate  # noqa: PLC0415

    layers = [layer for layer in graph.operators() if isinstance(layer, Candidate)]
    largest = max(layers, key=lambda layer: layer.layout.shape[0] * layer.layout.shape[1], default=None)
    return {"float16": "fp16", "bfloat16": "bf16"}.get(largest.dtype if largest else "", "fp32")


def _closed(_feeds: Feeds) -> Sequence[Array]:
    raise RuntimeError("the session is closed")
