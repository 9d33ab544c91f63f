"""A random Llama of 1.1 billion parameters: memory and time against the plan, in two runs.

    python benchmarks/large_decoder.py [--write]

Blocks 1 to 3 are pruned with the defaults, the rest by magnitude, from the directory that the first run wrote. Takes
about a quarter of an hour on two cores and 14 GB of disk.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anonymous_memory import measure_command
from checks import Check, table
from large_model import CONFIG, make_tokens
from results_files import write_results

FIRST = [part for block in range(3) for part in ("--include", f"model.layers.{block}.*")]
REST = ["--method", "magnitude", *(part for block in range(3) for part in ("--exclude", f"model.layers.{block}.*"))]
MAKE = """\
import sys
from pathlib import Path
from large_model import make_decoder
make_decoder(Path(sys.argv[1]))
"""


def block_mb() -> float:
    """Weights of one block, float32."""
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    keys = hidden * CONFIG["num_key_value_heads"] // CONFIG["num_attention_heads"]
    return 4 * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner) / 2**20


def gram_mb() -> float:
    """Gram and cross Gram matrix of the widest input, of fit and choice part, float64."""
    return 2 * 2 * 8 * CONFIG["intermediate_size"] ** 2 / 2**20


def main() -> int:
    """Makes the model, plans, runs and compares; 1 if a figure misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/large_decoder.{json,md}")
    arguments = parser.parse_args()
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", MAKE, str(folder)], cwd=Path(__file__).parent, check=True)
        tokens = make_tokens(folder)
        runs = {"blocks 1 to 3, defaults": (folder / "llama", FIRST), "the rest, magnitude": (folder / "a/model", REST)}
        total = 0.0
        for (title, (model, options)), out in zip(runs.items(), ("a", "b"), strict=True):
            planned, peak, report = run(model, folder / out, tokens, options)
            total += report["seconds"]["total"]
            for check in compared(title, planned, peak, report):
                checks.append(check)
                print(table([check]).splitlines()[-1], flush=True)
        checks.append(Check("Llama 1.1B, both runs", "minutes", total / 60, "≤", 30))
    print(table(checks))
    if arguments.write:
        write_results("large_decoder", [asdict(check) | {"passed": check.passed} for check in checks], table(checks))
    return int(not all(check.passed for check in checks))


def run(model: Path, out: Path, tokens: Path, options: list[str]) -> tuple[dict[str, float], float, dict[str, Any]]:
    """The plan, the run's peak of anonymous memory in MB, which is what the plan predicts, and its report."""
    command = [sys.executable, "-m", "prox24_export", str(model), "--calibration", str(tokens), *options]
    told = subprocess.run([*command, "--plan"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"peak memory ([\d,]+) MB, time ([\d,]+) s", told)
    if found is None:
        raise SystemExit(f"no plan: {told}")
    memory, seconds = (float(figure.replace(",", "")) for figure in found.groups())
    peak = measure_command([*command, "-o", str(out)]).peak_mb
    return {"memory": memory, "seconds": seconds}, peak, json.loads((out / "report.json").read_text(encoding="utf-8"))


def compared(title: str, planned: dict[str, float], peak: float, report: dict[str, Any]) -> list[Check]:
    """Measured against the limit and the plan."""
    name, seconds = f"Llama 1.1B, {title}", report["seconds"]["total"]
    sparse = sum(layer["state"] == "sparse" for layer in report["layers"])
    factor = max(planned["seconds"] / seconds, seconds / planned["seconds"])
    return [
        Check(name, "linear layers pruned", sparse, "≥", 21 if "defaults" in title else 7 * 19 + 1),
        Check(name, "peak of anonymous memory, MB", peak, "≤", block_mb() + gram_mb() + 1.5 * 1024),
        Check(name, "planned memory away from it, %", 100 * abs(planned["memory"] / peak - 1), "≤", 20),
        Check(name, "seconds", seconds),
        Check(name, "planned time away from it, factor", factor, "≤", 1.5),
    ]


if __name__ == "__main__":
    sys.exit(main())
