import os
import subprocess
import sys
from pathlib import Path

import prox24_export
from prox24_export.solver import compile_cache

RUN = """
import torch
from prox24_export.solver import prox24
print(prox24(torch.tensor([4.0, 3.0, 2.0, 1.0]), 9.0).tolist())
"""


def test_compiled_kernels_go_to_the_users_cache_and_never_into_the_package(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=environment | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[4.0, 3.0, 0.0, 0.0]"
    assert list((tmp_path / "prox24-export").rglob("*.nbi"))
    package = Path(prox24_export.__file__).parent
    started = (tmp_path / "prox24-export").stat().st_ctime
    assert not [path for path in package.rglob("*.nbi") if path.stat().st_mtime > started - 1]


def test_numbas_own_setting_is_left_as_it_was() -> None:
    before = compile_cache.CONFIG.CACHE_DIR
    seen = compile_cache.cache_compiled(lambda function: (compile_cache.CONFIG.CACHE_DIR, function()))(lambda: 7)
    assert seen == (before or str(compile_cache.find_cache_folder()), 7)
    assert before == compile_cache.CONFIG.CACHE_DIR
