"""Whether TensorRT can be used, what to do where not, and what differs between its versions."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prox24_export.errors import UnavailableError
from prox24_export.passes.emit_engine.tensorrt import availability, require_tensorrt
from prox24_export.passes.emit_engine.versions import choose_builder_flags, find_generation


@pytest.mark.parametrize(
    ("version", "row", "typed", "flags", "key"),
    [
        ("8.5.1.7", 8, False, {"fp16": True}, "Bindings"),
        ("8.6.1", 8, False, {"fp16": True}, "Bindings"),
        ("9.3.0", 10, True, {}, "Bindings"),
        ("10.16.1.11", 10, True, {}, "Bindings"),
        ("11.4.0.106", 11, False, {}, "I/O Tensors"),
        ("12.0.0", 11, False, {}, "I/O Tensors"),
    ],
)
def test_the_version_table(version: str, row: int, typed: bool, flags: dict[str, bool], key: str) -> None:
    found = find_generation(version)
    assert (found.major, found.strongly_typed, found.io_tensors) == (row, typed, key)
    assert choose_builder_flags(version, "fp16") == flags
    assert choose_builder_flags(version, "fp32") == {}


@pytest.mark.parametrize("version", ["8.4.3.1", "7.2.3"])
def test_older_versions_are_refused(version: str) -> None:
    with pytest.raises(UnavailableError, match=rf"8\.5 or later\. Got {version}"):
        find_generation(version)


def test_it_is_available_where_all_parts_are(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    found = require_tensorrt()
    assert (found.available, found.version, found.device, found.sparse) == (
        *(True, trt.__version__, "NVIDIA H100 80GB HBM3", True),
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not availability().sparse


def test_without_a_gpu_it_is_not(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    del trt
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        UnavailableError, match=r"--engine tensorrt cannot be used here: torch .* without CUDA\. Install"
    ):
        require_tensorrt()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = availability()
    assert "no CUDA GPU can be used" in found.reason
    assert "NVIDIA's driver" in found.remedy


def test_an_old_version_is_told_with_the_remedy(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "__version__", "8.2.1")
    found = availability()
    assert (found.available, found.reason) == (False, "TensorRT 8.2.1 is too old.")
    assert "prox24-export[tensorrt]" in found.remedy


@pytest.mark.parametrize(
    ("source", "reason", "remedy"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'tensorrt'\", name='tensorrt')",
            "is not installed",
            "[tensorrt]",
        ),
        ("raise ImportError('libnvonnxparser.so.11: cannot open shared object file')", "libnvonnxparser", "LD_LIBRARY"),
        ("raise OSError('libcublas.so.13: cannot open shared object file')", "libcublas", "LD_LIBRARY_PATH"),
    ],
)
def test_a_package_or_library_that_is_missing_is_told_with_the_remedy(
    tmp_path: Path, source: str, reason: str, remedy: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    code = (
        "from prox24_export.passes.emit_engine.tensorrt import availability as a; f = a();"
        "print(f.available, f.reason, f.remedy)"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("False ")
    assert reason in done.stdout
    assert remedy in done.stdout


def test_tensorrt_for_rtx_alone_is_recognised_and_not_used(tmp_path: Path) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'tensorrt'\", name='tensorrt')"
    (tmp_path / "tensorrt.py").write_text(missing)
    (tmp_path / "tensorrt_rtx.py").write_text("raise AssertionError('it is looked for, and not imported')")
    code = (
        "from prox24_export.engines.choice import EngineRequest as R, choose_engine as c;"
        "from prox24_export.errors import UnavailableError as U\n"
        "print(c(R(), has_onnx=True).why_not)\n"
        "try: c(R('tensorrt'), has_onnx=True)\n"
        "except U as error: print(error)"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    why = "tensorrt is not installed; TensorRT for RTX is, but is not used: in version 1.7.1 it has sparse kernels"
    auto, asked = done.stdout.splitlines()
    assert auto.startswith(f"TensorRT: {why}")
    assert "on Hopper alone, for which it builds no engine. torch.sparse: " in auto
    assert asked.startswith(f"--engine tensorrt cannot be used here: {why}")
    assert asked.endswith("Install TensorRT itself: pip install 'prox24-export[tensorrt]'.")


def test_importing_the_engines_imports_nothing_that_is_optional_or_slow() -> None:
    modules = (
        *("shapes", "passes.emit_engine.tensorrt", "passes.emit_engine.versions", "passes.emit_engine.capture_log"),
        *("engines.tensorrt.session", "engines.tensorrt.cuda_device", "engines.timing.gpu_state"),
    )
    code = (
        f"import sys; [__import__('prox24_export.' + name) for name in {modules}];"
        "print({'tensorrt', 'polygraphy', 'torch', 'pynvml', 'onnxruntime'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    code = "import sys, prox24_export.passes.emit_engine.build; print({'tensorrt', 'polygraphy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
