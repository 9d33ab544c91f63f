"""What is free for this process: of the machine, and of every control group around it."""

from pathlib import Path

import pytest
import torch

from prox24_export.facts.free_memory import find_free_host_memory, find_free_memory

MB = 2**20


def system(root: Path, groups: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:  8192 kB\nMemAvailable:  4096 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    return root


def group(root: Path, place: str, *, limit: str, used: int, cached: int, first: bool = False) -> None:
    folder = root / "sys/fs/cgroup" / ("memory" if first else "") / place
    folder.mkdir(parents=True, exist_ok=True)
    total = "total_" if first else ""
    (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(f"{limit}\n")
    (folder / ("memory.usage_in_bytes" if first else "memory.current")).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{total}inactive_file {cached}\n{total}active_file 0\n")


def test_without_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert find_free_host_memory(system(tmp_path, "0::/\n")) == 4 * MB
    (tmp_path / "proc/self/cgroup").unlink()
    assert find_free_host_memory(tmp_path) == 4 * MB


@pytest.mark.parametrize(
    ("inner", "outer", "free"),
    [
        ("max", "max", 4 * MB),
        (str(3 * MB), "max", 2 * MB),  # 1.5 MB are in use, of which half a megabyte is of files
        ("max", str(2 * MB), MB),
        (str(3 * MB), str(2 * MB), MB),
        (str(MB), "max", 0),
    ],
)
def test_the_nearest_limit_of_all_groups_around_counts(inner: str, outer: str, free: int, tmp_path: Path) -> None:
    root = system(tmp_path, "0::/job/step\n")
    group(root, "job", limit=outer, used=3 * MB // 2, cached=MB // 2)
    group(root, "job/step", limit=inner, used=3 * MB // 2, cached=MB // 2)
    assert find_free_host_memory(root) == free


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/docker/0123\n")
    group(root, "", limit=str(2 * MB), used=MB, cached=0)
    assert find_free_host_memory(root) == MB


def test_the_first_version_of_groups_counts_too(tmp_path: Path) -> None:
    root = system(tmp_path, "5:cpu:/elsewhere\n4:hugetlb,memory:/docker/0123\n0::/\n")
    group(root, "", limit=str(2 * MB), used=MB, cached=MB // 4, first=True)
    assert find_free_host_memory(root) == 5 * MB // 4


def test_this_machine_has_some() -> None:
    assert find_free_memory(torch.device("cpu")) > MB


def test_what_torch_keeps_of_a_gpu_is_free_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"mem_get_info": (3 * MB, 9 * MB), "memory_reserved": 5 * MB, "memory_allocated": MB}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert find_free_memory(torch.device("cuda", 0)) == 7 * MB
