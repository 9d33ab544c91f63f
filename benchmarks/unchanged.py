"""Whether this version writes what an earlier one wrote: the same bytes, and the same report but for times.

    python benchmarks/unchanged.py REVISION [--quick] [--write]

Runs both versions on the sample, KWT-1, ResNet-20 (without refinement) and stories260K, one after the other, and
compares the written model byte by byte and `report.json` field by field. What may differ is named in `FREE`: times,
versions, the machine, and paths. Reworded sentences are listed old → new. `--quick` leaves the refinement out
everywhere. `--write` puts the result under `benchmarks/results/`. Exits 1 where anything else differs.

A refinement of which one run is cut short by its limit of ten minutes cannot be compared: use an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import MODELS, ROOT, Files, available
from results_files import write_results

FREE = ("versions", "machine", "started", "seconds", "path")  # keys whose values may differ, wherever they stand
WITHOUT_REFINEMENT = {"ResNet-20"}
COMPARED = ("digits sample", "KWT-1", "ResNet-20", "stories260K")
SUFFIXES = {".onnx", ".data", ".safetensors"}


@dataclass(frozen=True)
class Difference:
    """One place of a report where two versions say different things."""

    place: str
    old: Any
    new: Any

    @property
    def is_wording(self) -> bool:
        """Whether both are sentences, so that only the words may have changed."""
        return all(isinstance(side, str) and " " in side for side in (self.old, self.new))


def differences(old: Any, new: Any, place: str = "") -> Iterator[Difference]:
    """Every place where two JSON values differ, but for what is free to."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in FREE:
                yield from differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{place}[{index}]")
    elif old != new or type(old) is not type(new):
        yield Difference(place, old, new)


def run_version(checkout: Path, files: Files, out: Path, *options: str) -> None:
    """Runs the command of a checkout."""
    model, calibration, evaluation = files
    command = [sys.executable, "-m", "prox24_export", str(model), "--calibration", str(calibration)]
    command += ["--evaluation", str(evaluation), "--out", str(out), "--quiet", *options]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, cwd=out.parent, check=True)


def written_models(out: Path) -> dict[str, bytes]:
    """The bytes of every file that holds weights, by its place in the output folder."""
    files = [file for file in sorted(out.rglob("*")) if file.suffix in SUFFIXES]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def compare(old: Path, new: Path) -> tuple[bool, list[Difference]]:
    """Whether the written models are the same, and where the reports differ."""
    before, after = written_models(old), written_models(new)
    reports = (json.loads((out / "report.json").read_text(encoding="utf-8")) for out in (old, new))
    return bool(before) and before == after, list(differences(*reports))


def main() -> int:
    """Compares, and prints a line for each model; 1 where something differs that may not."""
    parser = argparse.ArgumentParser(description="Compares what two versions write.")
    parser.add_argument("revision", help="the earlier version: a revision of this repository")
    parser.add_argument("--quick", action="store_true", help="without refinement")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/unchanged.{json,md}")
    arguments = parser.parse_args()
    sentences: dict[tuple[str, str], None] = {}
    rows, lines, good = [], ["| model | same bytes | the report differs in | reworded |", "|---|---|---|---|"], True
    with tempfile.TemporaryDirectory() as name:
        folder, earlier = Path(name), Path(name) / "earlier"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", earlier, arguments.revision], cwd=ROOT, check=True)
        try:
            for model in filter(available, COMPARED):
                files = MODELS[model][1](folder)
                options = ["--no-refine"] if arguments.quick or model in WITHOUT_REFINEMENT else []
                outs = [folder / f"{model}-old" / "out", folder / f"{model}-new" / "out"]
                for checkout, out in zip((earlier, ROOT), outs, strict=True):
                    out.parent.mkdir()
                    run_version(checkout, files, out, *options)
                same, found = compare(*outs)
                reworded = [one for one in found if one.is_wording]
                sentences |= dict.fromkeys((one.old, one.new) for one in reworded)
                others = [one for one in found if not one.is_wording]
                good = good and same and not others
                places = ", ".join(one.place for one in others) or "nothing"
                lines.append(f"| {model} | {'yes' if same else '**NO**'} | {places} | {len(reworded)} |")
                print(lines[-1], flush=True)
                rows.append({"model": model, "same": same, "differences": [vars(one) for one in found]})
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", earlier], cwd=ROOT, check=True)
    lines += ["", "Reworded:", "", *(f"- {old} → {new}" for old, new in sentences)]
    if arguments.write:
        write_results("unchanged", rows, "\n".join([f"Against {arguments.revision}.", "", *lines, ""]))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
