"""Workers that are processes of Ray, on this machine or on the machines of a cluster."""

import importlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from prox24_export.errors import Prox24Error, UnavailableError, describe_missing, first_line
from prox24_export.facts.machine import list_versions
from prox24_export.passes.calibrate.shards import MOST_SHARDS
from prox24_export.process.interrupts import SIGNALS, hold_signals, raise_if_interrupted
from prox24_export.stages.work.stage_worker import StageWorker
from prox24_export.stages.work.workers import MachineWorkers, WorkerCall, WorkerLostError

LOCAL = "local"
MOST_WORKERS = MOST_SHARDS + 1  # more would find nothing to observe
START_SECONDS, REACH_SECONDS, LOOK_SECONDS = 180, 5, 30
EVERY = 1.0  # seconds between two looks for a signal
INSTALL = "Install it with: pip install 'prox24-export[ray]', or leave out --ray."


@contextmanager
def open_workers(address: str | None) -> Iterator[MachineWorkers | None]:
    """Starts workers, each of which takes as many threads as this process, and ends them with the block.

    Args:
        address: `local` for processes of this machine, or the address of a cluster's head; None starts none.

    Raises:
        UnavailableError: Ray is not installed, the head cannot be reached, or no worker can be started there.
    """
    if address is None:
        yield None
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    with _set_environment(address), _make_folder(address) as folder:
        ray = _import_ray()
        try:
            _connect(ray, address, folder)
            _restore(handlers)  # Ray ends the process in its own way
            yield RayWorkers(ray, address)
        finally:
            with hold_signals(), suppress(Exception):  # the work is done, or has failed for a reason of its own
                ray.shutdown()
            _restore(handlers)


class RayWorkers:
    """Workers of Ray; see `Workers`. A lost one is replaced where there is room for another."""

    def __init__(self, ray: Any, address: str) -> None:
        """Starts the workers, and expects the versions of this process in all of them.

        Args:
            ray: The library, which is connected.
            address: As in `open_workers`, for messages.

        Raises:
            UnavailableError: There is no room for a worker, one does not start, or it has other versions.
        """
        self._ray, self._address, self._threads = ray, address, torch.get_num_threads()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        rooms = [int(resources.get("CPU", 0)) // self._threads for resources in nodes]
        if not any(rooms):
            raise UnavailableError(
                f"--ray {address}: no machine has {self._threads} CPUs, which is the number of threads of this process "
                "and so of each worker. Set OMP_NUM_THREADS to fewer."
            )
        self._actors: list[Any] = self._start_all(min(sum(rooms), MOST_WORKERS))
        self._largest_room = max(rooms)

    @property
    def count(self) -> int:
        """How many workers there are, lost ones included."""
        return len(self._actors)

    @property
    def on_one_machine(self) -> int:
        """How many there may be on one machine."""
        return min(self.count, self._largest_room)

    def put(self, value: Any) -> Any:
        """See `Workers.put`."""
        return [self._ray.put(value)]  # in a list, Ray hands the reference on as it is

    def ask(self, worker: int, setup: Any, call: WorkerCall) -> Any:
        """See `Workers.ask`."""
        order = [*range(worker, self.count), *range(worker)]
        chosen = next((place for place in order if self._actors[place] is not None), None)
        if chosen is None:
            raise Prox24Error(f"every worker of --ray {self._address} was lost, and none could be started again.")
        actor = self._actors[chosen]
        return chosen, actor, actor.answer.remote(setup, call.method, call.arguments)

    def wait(self, asked: Any) -> Any:
        """See `Workers.wait`."""
        worker, actor, answer = asked
        ready: list[Any] = []
        while not ready:
            ready, _ = self._ray.wait([answer], timeout=EVERY)
            raise_if_interrupted()
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:  # it failed there, and would here
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            self._replace(worker, actor)
            raise WorkerLostError(f"worker {worker + 1} of {self.count}, {type(error).__name__}") from error

    def _start(self) -> Any:
        kind = self._ray.remote(_Process)
        return kind.options(num_cpus=self._threads, max_restarts=0, max_task_retries=0).remote()

    def _replace(self, worker: int, lost: Any) -> None:
        """Replaces a lost worker, unless that was done; where no other starts in time, its place stays empty."""
        if self._actors[worker] is not lost:
            return
        self._actors[worker] = None
        with suppress(self._ray.exceptions.RayError):
            actor = self._start()
            self._ray.get(actor.describe.remote(), timeout=START_SECONDS)
            self._actors[worker] = actor

    def _start_all(self, count: int) -> list[Any]:
        """Starts so many workers, and leaves those out that have not started in time.

        Raises:
            UnavailableError: None starts in time, one fails, or it has other versions.
        """
        actors, last = [self._start() for _ in range(count)], time.monotonic() + START_SECONDS
        asked, started = [actor.describe.remote() for actor in actors], []
        for actor, answer in zip(actors, asked, strict=True):
            try:
                described = self._ray.get(answer, timeout=max(EVERY, last - time.monotonic()))
            except self._ray.exceptions.GetTimeoutError:
                self._ray.kill(actor)  # it would take CPUs that nobody needs once they are free
                continue
            except self._ray.exceptions.RayError as error:
                told = first_line(getattr(error, "cause", None) or error).rstrip(".")
                raise UnavailableError(
                    f"--ray {self._address}: a worker does not start: {told}. Install this version of prox24-export on "
                    "every machine."
                ) from error
            self._expect_versions(*described)
            started.append(actor)
        if not started:
            raise UnavailableError(
                f"--ray {self._address}: no worker started within {START_SECONDS} s: others use the CPUs of its "
                "machines, or these start slowly. Run again when they are free, or leave out --ray."
            )
        return started

    def _expect_versions(self, host: str, versions: dict[str, str]) -> None:
        """Expects a worker to compute with the libraries of this process.

        Raises:
            UnavailableError: It does not.
        """
        for name, version in list_versions().items():
            if versions.get(name) != version:
                raise UnavailableError(
                    f"--ray {self._address}: {name} is {versions.get(name, 'not installed')} on {host} and {version} "
                    "here, so that sums would differ. Install the same versions on every machine."
                )


class _Process:
    """What Ray runs in the process of a worker."""

    def __init__(self) -> None:
        """Makes no worker yet."""
        self._known: tuple[Any, StageWorker] | None = None

    def describe(self) -> tuple[str, dict[str, str]]:
        """Its machine, and the versions of its libraries."""
        return platform.node(), list_versions()

    def answer(self, setup: Any, method: str, arguments: tuple[Any, ...]) -> Any:
        """Answers a call with a worker of this setup, which is kept until another setup comes."""
        if self._known is None or self._known[0] != setup:
            self._known = None
            self._known = setup, StageWorker(_fetch(setup), _fetch)
        return getattr(self._known[1], method)(*arguments)


def _fetch(handle: Any) -> Any:
    return importlib.import_module("ray").get(handle[0])


@contextmanager
def _set_environment(address: str) -> Iterator[None]:
    """Sets what Ray reads when it starts: it reports nothing, and processes of this machine know one secret."""
    wanted = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address == LOCAL:
        wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _make_folder(address: str) -> Iterator[Path | None]:
    """Makes the folder of Ray's logs, sockets and spilled values, and removes it; a cluster has one of its own."""
    if address != LOCAL:
        yield None
        return
    short = "/tmp" if os.access("/tmp", os.W_OK) else None  # noqa: S108 - a socket's path has at most 107 characters
    folder = Path(tempfile.mkdtemp(prefix="prox24-ray.", dir=short))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _import_ray() -> Any:
    try:
        ray: Any = importlib.import_module("ray")
        vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False  # they go to stdout
    except Exception as error:  # a broken installation fails in many ways
        raise UnavailableError(f"--ray: {describe_missing(error, 'ray')}. {INSTALL}") from error
    if ray.is_initialized():
        raise UnavailableError("--ray: this process uses Ray already. Call ray.shutdown() first, or leave out --ray.")
    return ray


def _connect(ray: Any, address: str, folder: Path | None) -> None:
    """Starts Ray on this machine, or connects to a head.

    Raises:
        UnavailableError: It cannot be.
    """
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if folder is not None:
        cores = max(_count_cores(), torch.get_num_threads())
        options |= {"num_cpus": cores, "_temp_dir": str(folder), "_node_ip_address": "127.0.0.1"}
    else:
        _expect_reachable(address)
    try:
        ray.init(address=address, configure_logging=False, **options)
    except Exception as error:
        where = "Ray cannot be started here" if folder is not None else "its Ray cannot be used"
        raise UnavailableError(f"--ray {address}: {where}: {first_line(error).rstrip('.')}.") from error


def _expect_reachable(address: str) -> None:
    """Expects the head of a cluster at an address, by a look from another process: Ray's own would wait for minutes.

    Raises:
        UnavailableError: Nothing listens there, or it is no head that this process may use.
    """
    host, _, port = address.rpartition(":")
    way = "Start one with ray start --head --port=6379, or use --ray local."
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or error
        raise UnavailableError(f"--ray {address}: no head of a cluster can be reached there: {told}. {way}") from error
    look = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--skip-version-check", "--address", address]
    try:
        subprocess.run(look, timeout=LOOK_SECONDS, capture_output=True, check=True)  # noqa: S603 - our own interpreter
    except subprocess.SubprocessError as error:
        raise UnavailableError(
            f"--ray {address}: what answers there is no head of a Ray cluster, or wants the token in RAY_AUTH_TOKEN "
            f"that it was started with. {way}"
        ) from error


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _restore(handlers: dict[int, Any]) -> None:
    """Puts handlers of signals back that a library has replaced."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
