"""How lines of a sample or an action run: as a runner starts them, in an environment of its own, offline."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def environment(scripts: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    path = f"{scripts}{os.pathsep}{kept['PATH']}"
    return kept | offline | {"PATH": path, **more}


def shell(lines: str, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """As a runner starts them: bash that ends at the first line that fails."""
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", lines, "step"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
