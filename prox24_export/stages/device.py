"""The device of a run: which it is, what runs there, and what is left to the host."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prox24_export.errors import Prox24Error, UnavailableError, first_line
from prox24_export.facts.free_memory import find_free_memory
from prox24_export.facts.out_of_memory import is_out_of_memory
from prox24_export.passes.calibrate.schedule import Stage
from prox24_export.passes.front_torch.device_stages import TorchOnDevice
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.graph.arrays import as_tensor
from prox24_export.passes.graph.on_device import TensorRunner
from prox24_export.passes.graph.protocol import Feeds, Runner, StageCompiler, TracedGraph
from prox24_export.results.device import DeviceReport, HostWork

CPU, ALL = torch.device("cpu"), "cuda:all"
SHARE_OF_MODEL = 0.8  # of a GPU's free memory that a whole model may take for the accuracy, beside its activations


def choose_devices(asked: str) -> tuple[torch.device, ...]:
    """Chooses the devices of a run; where there are several, the first one does all that is not solving layers.

    Args:
        asked: `auto`, `cpu`, `cuda`, `cuda:N` or `cuda:all`. `auto` is the first GPU, or the CPU where there is none;
            `cuda:all` is the first GPU and all others of its kind: another kind rounds sums differently.

    Raises:
        UnavailableError: A GPU was asked for that torch does not see.
    """
    if asked == "cpu":
        return (CPU,)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto" and not count:
        return (CPU,)
    number = read_number(asked)
    if number >= count:
        built = torch.version.cuda is not None or torch.version.hip is not None
        why = "" if count or built else f", and this build of torch ({torch.__version__}) is for CPUs alone"
        seen = "none" if not count else "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UnavailableError(
            f"--device {asked} needs a GPU that torch sees. Got {seen}{why}. Install a build of torch for your GPU, or "
            "use --device cpu."
        )
    if asked != ALL:
        return (torch.device("cuda", number),)
    first, *others = (torch.device("cuda", place) for place in range(count))
    return (first, *(other for other in others if name_kind(other) == name_kind(first)))


def read_number(asked: str) -> int:
    """Reads the number of the GPU out of `--device`; 0 where it names none."""
    number = asked.partition(":")[2]
    return int(number) if number.isdecimal() else 0


def name_kind(device: torch.device) -> str:
    """Names what a device is, whatever its number: `cpu`, or what the GPU is called."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def describe_devices(devices: Sequence[torch.device], on_host: Sequence[HostWork]) -> DeviceReport:
    """Describes the devices of a run, and what was left to the host."""
    title = "" if devices[0].type == "cpu" else name_kind(devices[0])
    return DeviceReport(", ".join(map(str, devices)), title, tuple(dict.fromkeys(on_host)))


@dataclass(frozen=True)
class StagePlacement:
    """Where the stages of a model run.

    Attributes:
        devices: Where values and weights are while layers are calibrated and solved: the first one, and where there are
            others, they solve layers beside it.
        compiler: Compiles stages for that device.
        on_host: Why stages run on the host all the same, by the places of their nodes; it fills as they run.
        halvings: How often batches and pieces of layers were halved, because the device had no room for more.
    """

    devices: Sequence[torch.device]
    compiler: StageCompiler
    on_host: Mapping[tuple[int, ...], str]
    halvings: int = 0

    @property
    def device(self) -> torch.device:
        """The first one."""
        return self.devices[0]

    @property
    def moves_to(self) -> torch.device | None:
        """Where the values of a batch go; None where they stay on the host."""
        return None if self.device.type == "cpu" else self.device

    def shrink(self, size: int) -> int:
        """How many samples are joined in one call of the model, where `size` are if there is room."""
        return max(1, size >> self.halvings)

    def list_host_work(self, stages: Sequence[Stage]) -> list[HostWork]:
        """Lists the stages whose nodes ran on the host, with the layers that they lead to."""
        found = [(stage, self.on_host.get(tuple(node.index for node in stage.nodes))) for stage in stages]
        return [
            HostWork("calibration", reason, tuple(dict.fromkeys(linear.name for linear, _ in stage.observed)))
            for stage, reason in found
            if reason is not None
        ]


def place_on(graph: TracedGraph, devices: Sequence[torch.device], halvings: int = 0) -> StagePlacement:
    """Places the stages of a model on the first of some devices."""
    if (device := devices[0]).type == "cpu":
        return StagePlacement(devices, graph, {}, halvings)
    if isinstance(graph, FxGraph):
        of_torch = TorchOnDevice(graph, device)
        return StagePlacement(devices, of_torch, of_torch.on_host, halvings)
    from prox24_export.passes.front_onnx.graph import expect_onnx_graph  # noqa: PLC0415 - torch does without ONNX
    from prox24_export.passes.onnx_to_fx.device_stages import OnnxOnDevice  # noqa: PLC0415

    of_onnx = OnnxOnDevice(expect_onnx_graph(graph), device)
    return StagePlacement(devices, of_onnx, of_onnx.on_host, halvings)


def make_runner(
    graph: TracedGraph, device: torch.device, feeds: Feeds | None, note: Callable[[HostWork], None]
) -> Runner:
    """Makes a function that runs a whole model on a device, or on the host where the device cannot.

    Args:
        graph: The model.
        device: The device.
        feeds: A batch of what it will run, on which an ONNX model is compared with ONNX Runtime; None where there is
            none.
        note: Called where the host has to run it.

    Raises:
        InputError: The model cannot be run.
    """
    if device.type == "cpu" or feeds is None:
        return graph.runner()
    try:
        there = _make_device_runner(graph, device, feeds)
    except (Prox24Error, RuntimeError, ValueError, TypeError, IndexError) as error:
        full = "the model does not fit into the memory of the GPU"
        note(HostWork("accuracy", full if is_out_of_memory(error) else first_line(error)))
    else:
        return _run_while_there_is_room(there, graph, note)
    return graph.runner()


def _run_while_there_is_room(there: TensorRunner, graph: TracedGraph, note: Callable[[HostWork], None]) -> Runner:
    """Makes a function that runs a model on its device until a batch does not fit, and from then on the host."""
    call = there.run

    def run(feeds: Feeds) -> Sequence[Tensor]:
        nonlocal call
        try:
            return call(feeds)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            note(HostWork("accuracy", "a batch does not fit into the memory of the GPU"))
        here = graph.runner()
        call = lambda values: [as_tensor(output) for output in here(values)]  # noqa: E731 - it takes the other's place
        return call(feeds)

    return TensorRunner(run)


def _make_device_runner(graph: TracedGraph, device: torch.device, feeds: Feeds) -> TensorRunner:
    if 4.0 * graph.parameters > SHARE_OF_MODEL * find_free_memory(device):
        raise torch.OutOfMemoryError
    if isinstance(graph, FxGraph):
        of_torch = graph.runner_on(device)
        of_torch.run(feeds)  # whether it runs there shows only then
        return of_torch
    from prox24_export.passes.front_onnx.graph import expect_onnx_graph  # noqa: PLC0415 - as above
    from prox24_export.passes.onnx_to_fx.device_stages import make_device_runner  # noqa: PLC0415

    return make_device_runner(expect_onnx_graph(graph), device, feeds)
