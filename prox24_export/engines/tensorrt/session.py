"""A TensorRT engine with its inputs on the device: outputs, times without transfers, and times of its layers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from prox24_export.engines.tensorrt.cuda_device import CudaDevice, HostArray
from prox24_export.errors import InputError, Prox24Error, first_line
from prox24_export.passes.emit_engine.capture_log import BuildLog, capture_log
from prox24_export.passes.emit_engine.tensorrt import import_tensorrt

NUMPY: dict[str, np.dtype[Any]] = {  # by TensorRT's name
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}


class EngineRunError(Prox24Error):
    """TensorRT cannot load or run an engine."""


class TrtSession:
    """One engine with one set of inputs.

    The inputs are copied to the device once; where possible, a run replays a CUDA graph.

    Args:
        name: What reports and messages call the engine.
        engine: The engine's file, or its bytes.
        feeds: Every input of the engine by name, in its type or one that converts to it without loss of meaning.
        device: The device to run on; the current CUDA device where None.
        graph: Whether to capture a CUDA graph.

    Attributes:
        name: What reports and messages call the engine.
        notes: What limits the figures, such as a graph that could not be captured, a sentence each.

    Raises:
        InputError: `feeds` lacks an input, or has one of another type or rank, or one whose shape no profile of the
            engine accepts.
        EngineRunError: TensorRT cannot load or run the engine, or the size of an output depends on data.
        UnavailableError: TensorRT cannot be used here.
    """

    def __init__(
        self,
        name: str,
        engine: Path | bytes,
        feeds: Mapping[str, HostArray],
        *,
        device: CudaDevice | None = None,
        graph: bool = True,
    ) -> None:
        """Loads the engine, copies the inputs, runs once, and captures the graph."""
        self.name = name
        self.notes: tuple[str, ...] = ()
        self._trt = import_tensorrt()
        self._device = device or CudaDevice()
        self._memory: dict[str, Any] = {}
        plan = engine.read_bytes() if isinstance(engine, Path) else engine
        with capture_log() as log:
            self._engine = _deserialise(plan, name, log)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineRunError(f"TensorRT cannot run the engine {name}: {log.complaint}")
            self._feed(feeds, log)
            self._reserve(log)
            self._launch = self._enqueue
            self._device.run(self._enqueue)  # the first call sets up what a graph cannot capture
        if graph:
            self._capture()

    def outputs(self) -> dict[str, HostArray]:
        """Runs one inference and returns its outputs by name, on the host."""
        with capture_log():
            self._device.run(self._launch)
        return {name: self._read(name) for name in self._names("OUTPUT")}

    def times(self, runs: int) -> list[float]:
        """Returns the milliseconds of each of `runs` consecutive inferences, transfers excluded."""
        with capture_log():
            return self._device.times(self._launch, runs)

    def layer_times(self, runs: int) -> dict[str, float]:
        """Returns the mean milliseconds of each layer over `runs` inferences.

        The profiler slows inferences down, so that the sum over layers is no latency. A session that has been profiled
        stays profiled: take a fresh one, with `graph=False`, for this alone.
        """
        profiler = _make_profiler(self._trt)
        with capture_log():
            self._context.profiler = profiler
            for _ in range(runs):
                self._device.run(self._enqueue)
        return {name: total / runs for name, total in profiler.totals.items()}

    def close(self) -> None:
        """Waits for the device and gives the memory back; a second call does nothing."""
        if self._engine is None:
            return
        self._device.synchronize()
        self._launch = self._enqueue
        self._context = self._engine = None  # in this order: a context is its engine's
        self._memory.clear()

    def _feed(self, feeds: Mapping[str, HostArray], log: BuildLog) -> None:
        """Checks and copies the inputs, under the first profile that accepts their shapes."""
        names = self._names("INPUT")
        missing = sorted(set(names) - feeds.keys())
        if missing:
            raise InputError(f"engine {self.name} needs an input {missing[0]!r}. Got {sorted(feeds)}.")
        self._expect_on_device(names)
        arrays = {name: self._converted(name, np.asarray(feeds[name])) for name in names}
        index = self._profile(arrays)
        if index and not self._context.set_optimization_profile_async(index, self._device.stream):
            raise EngineRunError(f"TensorRT refuses profile {index} of {self.name}: {log.complaint}")
        self._device.synchronize()
        for name, array in arrays.items():
            self._expect_linear(name, index)
            if not self._context.set_input_shape(name, array.shape):
                raise InputError(
                    f"engine {self.name}, input {name!r}: TensorRT refuses {array.shape}. {log.complaint}".rstrip()
                )
            self._address(name, array)

    def _profile(self, arrays: Mapping[str, HostArray]) -> int:
        ranges: list[str] = []
        for index in range(self._engine.num_optimization_profiles):
            outside = next((name for name, array in arrays.items() if not self._accepts(name, array, index)), None)
            if outside is None:
                return index
            low, _, high = (tuple(s) for s in self._engine.get_tensor_profile_shape(outside, index))
            ranges.append(f"{outside!r} from {low} to {high}, not {arrays[outside].shape}")
        raise InputError(
            f"no optimisation profile of engine {self.name} accepts the inputs: it takes {'; or '.join(ranges)}. "
            "Build it with a range that holds them: --shapes name:MIN,OPT,MAX."
        )

    def _accepts(self, name: str, array: HostArray, index: int) -> bool:
        low, _, high = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, index))
        return len(low) == array.ndim and all(a <= b <= c for a, b, c in zip(low, array.shape, high, strict=True))

    def _reserve(self, log: BuildLog) -> None:
        """Reserves the memory of the outputs, whose shapes are known now."""
        unknown = self._context.infer_shapes()
        if unknown:
            raise EngineRunError(
                f"TensorRT cannot tell the shapes of {self.name}: {unknown} are not set. {log.complaint}"
            )
        names = self._names("OUTPUT")
        self._expect_on_device(names)
        for name in names:
            self._expect_linear(name, self._context.active_optimization_profile)
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise EngineRunError(
                    f"engine {self.name}: the size of output {name!r}, {shape}, depends on data. Expected sizes that "
                    "follow from the inputs' alone, without which inferences cannot be compared; leave that output out."
                )
            self._address(name, np.empty(shape, self._dtype(name)))

    def _address(self, name: str, array: HostArray) -> None:
        """Reserves the memory of a tensor and tells TensorRT its address."""
        copied = self._mode(name) == "INPUT"
        self._memory[name] = self._device.upload(array) if copied else self._device.empty(array.nbytes)
        if not self._context.set_tensor_address(name, int(self._memory[name].data_ptr())):
            raise EngineRunError(f"TensorRT refuses the memory of tensor {name!r} of {self.name}")

    def _read(self, name: str) -> HostArray:
        return self._device.download(self._memory[name], self._context.get_tensor_shape(name), self._dtype(name))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise EngineRunError(f"TensorRT cannot run the engine {self.name}")

    def _capture(self) -> None:
        with capture_log() as log:
            self._launch, why = self._device.capture(self._enqueue_captured)
        if why:
            self._launch = self._enqueue
            self.notes = (f"{self.name} runs without a CUDA graph: {log.complaint or why}",)

    def _enqueue_captured(self) -> None:
        """Enqueues; a failure becomes a RuntimeError, as torch raises for a capture that fails."""
        try:
            self._enqueue()
        except EngineRunError as error:
            raise RuntimeError(str(error)) from error

    def _converted(self, name: str, array: HostArray) -> HostArray:
        wanted = self._dtype(name)
        floats = _is_float(array.dtype) and _is_float(wanted)
        integers = array.dtype.kind in "iu" and wanted.kind in "iu"
        if integers and array.size:
            limits = np.iinfo(wanted)
            integers = bool(array.min() >= limits.min and array.max() <= limits.max)
        if array.dtype == wanted or floats or integers:
            return np.ascontiguousarray(array, wanted).reshape(array.shape)
        raise InputError(f"engine {self.name}, input {name!r} must be {wanted}. Got {array.dtype}.")

    def _expect_on_device(self, names: Iterable[str]) -> None:
        for name in names:
            if self._engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise InputError(
                    f"engine {self.name}, tensor {name!r} must be in device memory. Got a shape tensor, whose values "
                    "set the shapes of others. Make it a constant of the model."
                )

    def _expect_linear(self, name: str, profile: int) -> None:
        layout = self._engine.get_tensor_format(name, profile)
        if layout != self._trt.TensorFormat.LINEAR:
            raise InputError(
                f"engine {self.name}, tensor {name!r} must be in linear layout. Got {layout}. Build it without "
                "--inputIOFormats and --outputIOFormats."
            )

    def _names(self, mode: str) -> list[str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return [name for name in names if self._mode(name) == mode]

    def _mode(self, name: str) -> str:
        return str(self._engine.get_tensor_mode(name).name)

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in NUMPY:
            raise InputError(f"engine {self.name}, tensor {name!r} must be one of {', '.join(NUMPY)}. Got {kind}.")
        return NUMPY[kind]


def _deserialise(plan: bytes, name: str, log: BuildLog) -> Any:
    from polygraphy.backend.trt import EngineFromBytes  # noqa: PLC0415 (optional)
    from polygraphy.exception import PolygraphyException  # noqa: PLC0415 (optional)

    try:
        return EngineFromBytes(plan)()
    except PolygraphyException as error:
        raise EngineRunError(
            f"TensorRT cannot load the engine {name}: {log.complaint or first_line(error)} An engine runs with the "
            "version of TensorRT and on the kind of GPU that built it."
        ) from error


def _make_profiler(trt: Any) -> Any:
    """Makes a profiler that adds up the times of layers; its base class is known only once TensorRT is imported."""

    class LayerTimes(trt.IProfiler):  # type: ignore[misc] # known at run time
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # a trampoline class must be initialised by name
            self.totals: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.totals[layer_name] = self.totals.get(layer_name, 0.0) + ms

    return LayerTimes()


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype in (NUMPY["BF16"], NUMPY["FP8"])
