"""Workers of Ray: through a stand-in for the library, and, where it is installed, through Ray itself."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prox24_export import InputError, Settings, export
from prox24_export.errors import Prox24Error, UnavailableError
from prox24_export.facts.machine import list_versions
from prox24_export.stages.work.ray_workers import MOST_WORKERS, open_workers
from tests.command import network, samples, snapshot
from tests.stages.work.own_ray import OwnRay

FAST = Settings(effort="fast", refine="no", engine="none")
SPREAD = Settings(effort="fast", refine="no", engine="none", ray="local")


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnRay]:
    """Ray's stand-in, as the only Ray there is, for a process of one thread."""
    ray, threads = OwnRay(), torch.get_num_threads()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray._private.worker", ModuleType("ray._private.worker"))
    torch.set_num_threads(1)
    yield ray
    torch.set_num_threads(threads)


def test_a_run_with_workers_writes_the_same_bytes_and_leaves_nothing_changed(tmp_path: Path, own_ray: OwnRay) -> None:
    model, data = network(tmp_path), samples(tmp_path, 200)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = dict(os.environ)
    assert not export(model, data, tmp_path / "alone", settings=FAST).faults
    own_ray.lost_at = {2, 9}
    assert not export(model, data, tmp_path / "spread", settings=SPREAD).faults
    written = [(tmp_path / out / "model.onnx").read_bytes() for out in ("alone", "spread")]
    assert written[0] == written[1]
    (asked,) = own_ray.asked
    assert (asked["RAY_USAGE_STATS_ENABLED"], asked["RAY_AUTH_MODE"], asked["address"]) == ("0", "token", "local")
    assert (asked["include_dashboard"], asked["log_to_driver"]) == (False, False)
    assert [one["num_cpus"] for one in own_ray.started] == [1] * (4 + 2)  # two were lost, and started again
    assert not own_ray.connected
    assert not Path(asked["_temp_dir"]).exists()
    assert dict(os.environ) == before
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.mark.parametrize(
    ("cpus", "count", "beside"), [([2], 2, 2), ([1, 1, 0], 2, 1), ([1, 3], 4, 3), ([64], MOST_WORKERS, MOST_WORKERS)]
)
def test_there_are_as_many_workers_as_there_is_room_and_work_for(
    cpus: list[int], count: int, beside: int, own_ray: OwnRay
) -> None:
    own_ray.cpus = cpus
    with open_workers("local") as workers:
        assert workers is not None
        assert workers.count == count
        assert workers.on_one_machine == beside


def test_workers_for_which_others_leave_no_cpus_are_left_out(own_ray: OwnRay) -> None:
    own_ray.cpus, own_ray.free = [1, 3], 3
    with open_workers("local") as workers:
        assert workers is not None
        assert workers.count == 3
    assert [actor.is_waiting for actor in own_ray.killed] == [True]
    own_ray.started, own_ray.free = [], 0
    expect_unavailable("local", r"no worker started within 180 s: others use the CPUs of its machines, or .* --ray\.$")
    assert len(own_ray.killed) == 5


def test_a_fault_of_the_end_takes_nothing_from_the_work(own_ray: OwnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("the socket is gone")

    monkeypatch.setattr(own_ray, "shutdown", fail)
    with open_workers("local") as workers:
        assert workers is not None
    own_ray.connected = False
    with pytest.raises(InputError, match="its own"), open_workers("local"):
        raise InputError("a reason of its own")


def test_without_an_address_there_are_none() -> None:
    with open_workers(None) as workers:
        assert workers is None


def expect_unavailable(address: str, message: str) -> None:
    with pytest.raises(UnavailableError, match=message), open_workers(address):
        pass


def test_what_cannot_be_used_is_told_before_any_work(own_ray: OwnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    own_ray.cpus = [0, 0]
    expect_unavailable("local", r"no machine has 1 CPUs, which is the number of threads .* OMP_NUM_THREADS to fewer\.$")
    own_ray.cpus, own_ray.versions = [2], list_versions() | {"torch": "1.0"}
    expect_unavailable("local", r"^--ray local: torch is 1\.0 on elsewhere and .* here, .* same versions on every mach")
    own_ray.versions, own_ray.is_full = None, True
    expect_unavailable("local", r"a worker does not start: The actor died unexpectedly\. Install this version")
    own_ray.fault = RuntimeError("Version mismatch:\nmore")
    expect_unavailable("local", r"^--ray local: Ray cannot be started here: Version mismatch:\.$")
    own_ray.connected = True
    expect_unavailable("local", r"this process uses Ray already\. Call ray\.shutdown\(\) first")
    monkeypatch.setitem(sys.modules, "ray", None)
    expect_unavailable(
        "local", r"^--ray: ray is not installed\. Install it with: pip install 'prox24-export\[ray\]', or"
    )


def test_a_head_that_is_not_there_leaves_everything_as_it_was(tmp_path: Path, own_ray: OwnRay) -> None:
    model, data = network(tmp_path), samples(tmp_path, 40)
    before = snapshot(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        expect_unavailable(
            address, "what answers there is no head of a Ray cluster"
        )  # it is a socket that says nothing
    settings = Settings(ray=address)
    with pytest.raises(UnavailableError, match=rf"^--ray {address}: no head of a cluster can be reached there: Conn.*"):
        export(model, data, tmp_path / "out", settings=settings)
    assert snapshot(tmp_path) == before
    assert own_ray.asked == []


def test_an_address_is_local_or_one_of_a_head() -> None:
    for wrong in ("somewhere", "ray://10.0.0.5:10001", "10.0.0.5"):
        with pytest.raises(InputError, match=r"--ray must be local, or an address such as 10\.0\.0\.5:6379\. Got"):
            Settings(ray=wrong)


def test_a_run_whose_workers_are_all_lost_ends_and_can_go_on(tmp_path: Path, own_ray: OwnRay) -> None:
    model, data = network(tmp_path), samples(tmp_path, 200)
    own_ray.cpus = [1]
    answer = OwnRay.wait

    def wait(asked: list[object], timeout: float) -> tuple[list[object], list[object]]:
        own_ray.is_full = own_ray.answers >= 12
        own_ray.lost_at = {13}
        return answer(own_ray, asked, timeout)

    vars(own_ray)["wait"] = wait
    with pytest.raises(Prox24Error, match=r"^every worker of --ray local was lost, and none could be started again\.$"):
        export(model, data, tmp_path / "out", settings=SPREAD)
    assert not own_ray.connected
    assert (tmp_path / "out.journal").is_dir()
    export(model, data, tmp_path / "out", settings=FAST)
    export(model, data, tmp_path / "alone", settings=FAST)
    written = [(tmp_path / out / "model.onnx").read_bytes() for out in ("alone", "out")]
    assert written[0] == written[1]


KILLED = """\
import os, signal, sys
from pathlib import Path
from prox24_export import Settings, export
from prox24_export.stages.work import ray_workers

wait, calls = ray_workers.RayWorkers.wait, []

def wait_and_kill(workers, asked):
    calls.append(asked)
    if len(calls) == 5:
        for folder in Path("/proc").glob("[0-9]*"):
            if (folder / "cmdline").read_bytes().startswith(b"ray::_Process"):
                if f"RAY_AUTH_TOKEN={os.environ['RAY_AUTH_TOKEN']}".encode() in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
                    break
    return wait(workers, asked)

ray_workers.RayWorkers.wait = wait_and_kill
settings = Settings(effort="fast", refine="no", engine="none", ray="local")
assert not export(sys.argv[1], sys.argv[2], sys.argv[3], settings=settings).faults
print(len(calls))
"""


def test_ray_itself_comes_to_the_same_bytes_with_a_worker_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    model, data = network(tmp_path), samples(tmp_path, 200)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(model), str(data), str(tmp_path / "spread")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().isdecimal()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    export(model, data, tmp_path / "alone", settings=FAST)
    torch.set_num_threads(threads)
    written = [(tmp_path / out / "model.onnx").read_bytes() for out in ("alone", "spread")]
    assert written[0] == written[1]
