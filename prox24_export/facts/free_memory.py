"""How much memory is free for this process: of the machine, of the control groups that it is in, or of a GPU."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

ROOT = Path("/")


class _Names(NamedTuple):
    """The files of a memory control group, and the lines of its statistics that count what the system can drop."""

    mount: str
    limit: str
    used: str
    droppable: frozenset[str]


UNIFIED = _Names("sys/fs/cgroup", "memory.max", "memory.current", frozenset({"active_file", "inactive_file"}))
FIRST = _Names(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    frozenset({"total_active_file", "total_inactive_file"}),
)
"""Version 2 and version 1 of control groups (kernel documentation, admin-guide/cgroup-v2 and cgroup-v1/memory)."""


def find_free_memory(device: torch.device) -> int:
    """Finds how many bytes are free on a device, the CPU included."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes next
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return find_free_host_memory()


def find_free_host_memory(root: Path = ROOT) -> int:
    """Finds how many bytes of memory this process may still take.

    A container or a batch job may have less than the machine: its control groups, and those that these lie in, set
    limits, beyond which the system ends a process.

    Args:
        root: Where the system's files are.
    """
    free = [_free_of_machine(root)]
    for folder, names in _control_groups(root):
        try:
            limit = int((folder / names.limit).read_text(encoding="ascii"))
            used = int((folder / names.used).read_text(encoding="ascii"))
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):  # no such group here, or `max`: no limit
            continue
        counted = dict(line.split()[:2] for line in lines if line.strip())
        droppable = sum(int(counted.get(name, 0)) for name in names.droppable)
        free.append(max(0, limit - max(0, used - droppable)))
    return min(free)


def _free_of_machine(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _control_groups(root: Path) -> Iterator[tuple[Path, _Names]]:
    """Yields the folder of each memory control group that the process is in, from the inmost to the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = FIRST if controllers else UNIFIED
        inmost = PurePosixPath(path.lstrip("/"))
        for place in (inmost, *inmost.parents):  # a container may see its own group as the root
            yield root / names.mount / place, names
