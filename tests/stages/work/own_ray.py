"""The part of Ray that is used, in this process: actors answer when waited for, and are lost when told to be."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

EXCEPTIONS = ModuleType("ray.exceptions")


class RayError(Exception):
    """As in Ray."""


class RayTaskError(RayError):
    """As in Ray: what a method raised is its cause."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ActorDiedError(RayError):
    """As in Ray."""


class GetTimeoutError(RayError):
    """As in Ray."""


vars(EXCEPTIONS).update(RayError=RayError, RayTaskError=RayTaskError)
vars(EXCEPTIONS).update(ActorDiedError=ActorDiedError, GetTimeoutError=GetTimeoutError)


@dataclass
class Actor:
    """An actor: any attribute is a method whose `remote` returns what `OwnRay.get` takes."""

    ray: "OwnRay"
    kind: Callable[[], Any]
    is_waiting: bool = False
    dead: bool = False
    made: list[Any] = field(default_factory=list)

    def __getattr__(self, name: str) -> "Method":
        return Method(self, name)


@dataclass
class Method:
    """A method of an actor."""

    actor: Actor
    name: str

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        def run() -> Any:
            ray, actor = self.actor.ray, self.actor
            ray.answers += self.name == "answer"
            actor.dead |= self.name == "answer" and ray.answers in ray.lost_at
            if actor.is_waiting:
                raise GetTimeoutError("Get timed out: some object(s) not ready.")
            if actor.dead or (ray.is_full and not actor.made):
                raise ActorDiedError("The actor died unexpectedly.")
            try:
                if not actor.made:
                    actor.made.append(actor.kind())
                answer = getattr(actor.made[0], self.name)(*arguments)
            except Exception as error:
                raise RayTaskError(error) from error
            return ("elsewhere", ray.versions) if self.name == "describe" and ray.versions is not None else answer

        return run


@dataclass
class Kind:
    """What `remote` makes of a class."""

    ray: "OwnRay"
    kind: Callable[[], Any]
    asked: dict[str, Any] = field(default_factory=dict)

    def options(self, **asked: Any) -> "Kind":
        return Kind(self.ray, self.kind, asked)

    def remote(self) -> Actor:
        self.ray.started.append(self.asked)
        return Actor(self.ray, self.kind, len(self.ray.started) > self.ray.free)


class OwnRay(ModuleType):
    """The module.

    Attributes:
        cpus: CPUs of each machine.
        lost_at: The numbers of the answers, counted from 1, with which their actor is lost.
        versions: What actors say of their libraries; None for the truth.
        fault: What `init` raises.
        is_full: Whether no actor starts any more.
        free: How many actors start; the others wait for CPUs that somebody else has.
        killed: The actors that were killed.
    """

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions, self.cpus = EXCEPTIONS, [1, 3]
        self.lost_at: set[int] = set()
        self.versions: dict[str, str] | None = None
        self.fault: Exception | None = None
        self.is_full, self.free = False, 1 << 30
        self.killed: list[Actor] = []
        self.answers, self.connected = 0, False
        self.asked: list[dict[str, Any]] = []  # what `init` was given, and RAY_USAGE_STATS_ENABLED then
        self.started: list[dict[str, Any]] = []  # options of each actor

    def init(self, **asked: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it takes the signal, as Ray does
        names = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE")
        self.asked.append(asked | {name: os.environ.get(name) for name in names})
        if self.fault is not None:
            raise self.fault
        self.connected = True

    def is_initialized(self) -> bool:
        return self.connected

    def shutdown(self) -> None:
        self.connected = False

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": float(count)}} for count in self.cpus]

    def put(self, value: Any) -> Any:
        return lambda: value

    def get(self, asked: Any, timeout: float | None = None) -> Any:
        assert timeout is None or timeout > 0
        return asked()

    def wait(self, asked: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout > 0
        return asked, []

    def remote(self, kind: Callable[[], Any]) -> Kind:
        return Kind(self, kind)
