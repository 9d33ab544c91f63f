"""Families of models that people export, by every way out of torch: each goes through, or is refused with the way out.

    python benchmarks/strangers.py [--only FAMILY]... [--keep FOLDER] [--minutes M] [--write]

Small random models of each family are exported by `torch.onnx.export`, by the old exporter with a free number of
samples, and as the directory that `save_pretrained` writes. Each is given to the command in a process of its own, with
samples and no other option. Exits 1 where the command ends otherwise than with a verified model or a sentence that
names the way out, where a weight with more than 1 % of the parameters stays dense without a reason that says what to
do, and where a linear module of the torch model is not among the layers.

`--keep` keeps exported models and outcomes in a folder, and takes outcomes that are there already.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from results_files import write_results
from strangers_checks import Case, Outcome, judge
from strangers_exports import list_cases, make_case


def run(family: str, way: str, folder: Path, more: Sequence[str]) -> Outcome:
    """Exports and prunes one model, or reads what came of it in an earlier run."""
    done = folder / "outcome.json"
    if done.is_file():
        return Outcome(**json.loads(done.read_text("utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    made = make_case(family, way, folder)
    outcome = judge(made, more) if isinstance(made, Case) else Outcome(family, way, "not exported", line=made)
    done.write_text(json.dumps(asdict(outcome)), "utf-8")
    return outcome


def tabulate(outcomes: list[Outcome], minutes: float | None) -> str:
    """The outcomes as Markdown; `minutes` is the limit of each refinement."""
    counts = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in ("pruned", "refused", "not exported")}
    faults = sum(bool(outcome.faults) for outcome in outcomes)
    lines = [
        f"{len(outcomes)} models: "
        + ", ".join(f"{count} {kind}" for kind, count in counts.items())
        + f", {faults} wrong.",
        "",
        "Modules are the linear ones of the torch model that its output depends on. Layers are those that the run",
        "lists, products of two activations left out. Seconds are wall time on a busy machine. Refinement was limited",
        "to the ten minutes of the default." if minutes is None else f"to {minutes:g} minutes instead of ten.",
        "",
        "| family | way | modules | layers | pruned | verified | what the run says | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        said = "; ".join((outcome.line, *(f"**{fault}**" for fault in outcome.faults)))
        if outcome.kind == "pruned":
            figures = f"{outcome.modules} | {outcome.layers} | {outcome.pruned} | {'yes' if outcome.verified else 'NO'}"
        else:
            figures = f"{outcome.modules or ''} | | |"
        seconds = f"{outcome.seconds:.0f}" if outcome.seconds else ""
        lines.append(f"| {outcome.family} | {outcome.way} | {figures} | {said} | {seconds} |".replace("\n", " "))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs all families, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a family by a part of its name; may be repeated")
    parser.add_argument("--keep", type=Path, help="a folder for models and outcomes; a later run goes on there")
    parser.add_argument("--minutes", type=float, help="the most minutes of refinement in one run, instead of ten")
    parser.add_argument("--write", action="store_true", help="write the result under benchmarks/results")
    options = parser.parse_args()
    outcomes, more = [], [] if options.minutes is None else ["--refine-minutes", str(options.minutes)]
    with tempfile.TemporaryDirectory() as name:
        for family, way in list_cases():
            if options.only and not any(part.lower() in family.lower() for part in options.only):
                continue
            place = f"{family} {way}".replace(",", "").replace(" ", "-")
            outcome = run(family, way, (options.keep or Path(name)) / place, more)
            print(f"{family}, {way}: {outcome.kind}: {outcome.line} {list(outcome.faults)}", flush=True)
            outcomes.append(outcome)
    table = tabulate(outcomes, options.minutes)
    print(table)
    if options.write:
        packages = {package: version(package) for package in ("torch", "onnxscript", "transformers")}
        write_results(
            "strangers",
            [asdict(outcome) for outcome in outcomes],
            table,
            facts={**packages, "minutes": options.minutes},
        )
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
