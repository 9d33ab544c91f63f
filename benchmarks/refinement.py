"""What tuning all layers together promises: never worse than layer by layer, how much better, in which time.

    python benchmarks/refinement.py [--model NAME…] [--seed N…] [--way WAY…] [--draw] [--pictures FOLDER]
        [--shared] [--write]

Each run stands beside the run layer by layer on the same samples. `--draw` gives each seed another draw of calibration
samples; without it, all are used. `--write` joins the rows with those that stand in the results, so that a part may be
measured at a time. The checks are of all rows that there are. Exits 1 where one is missed.
"""

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from checks import Check, table
from models import DRAWS, MODELS, available
from refinement_memory import measure_peak
from refinement_runs import WAYS, Row, join_rows, measure
from results_files import write_results

FIGURES: tuple[tuple[str, str, str, str, float], ...] = (
    ("ResNet-20", "default", "top-1, % (dense 81.3)", "≥", 80.8),
    ("ResNet-20", "views", "top-1, % (dense 81.3)", "≥", 81.3),
    ("KWT-1", "default", "top-1, % (dense 97.6)", "≥", 97.2),
    ("stories260K", "default", "perplexity (dense 4.76)", "≤", 5.6),
    ("MobileNetV1 0.25", "default", "top-1, % (dense 56.5)", "≥", 46.0),
    ("MobileNetV1 0.25", "thorough", "top-1, % (dense 56.5)", "≥", 48.0),
)
"""The accuracy with all calibration samples: model, way, figure, relation, limit; of several seeds the median."""
SECONDS = {
    ("digits sample", "default"): 20,
    ("ResNet-20", "default"): 90,
    ("KWT-1", "default"): 150,
    ("stories260K", "default"): 660,
    ("MobileNetV1 0.25", "default"): 660,
    ("MobileNetV1 0.25", "thorough"): 2460,
}
HIGHEST, HALF, STEP = 1.02, 30.0, 1.5  # of a curve, of its start; seconds of the limit; of a step


def refinement_checks() -> Iterator[Check]:
    """The default run of every model that is there, its first seed, and the memory of segments."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            if available(name):
                rows += measure(name, 0, ["default"], samples=None, pictures=None, folder=Path(folder))
        if available("KWT-1"):
            peaks = [measure_peak(MODELS["KWT-1"][1](Path(folder)), mode) for mode in ("segments", "model")]
            yield Check(
                "KWT-1", "peak memory of segments above the start, of model mode's", peaks[0] / peaks[1], "≤", 0.5
            )
    yield from check_rows(rows)


def check_rows(rows: Sequence[Row]) -> Iterator[Check]:
    """The promised figures of the rows that there are."""
    for name in DRAWS:
        own = [row for row in rows if row["model"] == name]
        if own:
            yield Check(
                name, "highest point of a curve, of its start", max(row["highest"] for row in own), "≤", HIGHEST
            )
        drawn = [row["gain"] for row in own if row["way"] == "default" and row["samples"] != "all"]
        if len(drawn) > 1:
            error = statistics.stdev(drawn) / math.sqrt(len(drawn))
            figure = f"mean gain of {len(drawn)} draws over layer by layer, in its standard errors"
            yield Check(name, figure, statistics.fmean(drawn) / error if error else 0.0, "≥", -1)
        for row in own:
            which = f"{row['way']}, seed {row['seed']}, {row['samples']} samples"
            gain = row["gain"] / row["error"] if row["error"] else 0.0
            yield Check(name, f"gain over layer by layer, in its standard errors: {which}", gain, "≥", -2)
            if row["way"] == "half a minute" and not row.get("shared"):
                yield Check(name, f"seconds of the refinement: {which}", row["refinement_seconds"], "≤", HALF + STEP)
    yield from _check_figures(rows)


def _check_figures(rows: Sequence[Row]) -> Iterator[Check]:
    for (name, way), seconds in SECONDS.items():
        own = [row for row in rows if (row["model"], row["way"], row["samples"]) == (name, way, "all")]
        times = [row["seconds"][1] for row in own if not row.get("shared")]
        if times:
            yield Check(name, f"seconds of the run: {way}", statistics.median(times), "≤", seconds)
    for name, way, figure, relation, limit in FIGURES:
        found = [row["refined"] for row in rows if (row["model"], row["way"], row["samples"]) == (name, way, "all")]
        if found:
            yield Check(name, f"{figure}: {way}, median of {len(found)}", statistics.median(found), relation, limit)
    found = [
        row["refined"] for row in rows if (row["model"], row["way"], row["samples"]) == ("stories260K", "default", 512)
    ]
    if found:
        yield Check("stories260K", f"perplexity, 512 rows, worst of {len(found)} draws", max(found), "≤", 7.0)


def tabulate(rows: Sequence[Row]) -> str:
    """The rows as Markdown; a gain is in points of top-1, or in 0.01 nats of a token's likelihood.

    In brackets stand the epochs that were taken back, and the seconds of the run layer by layer.
    """
    heads = (
        "model",
        "way",
        "samples",
        "seed",
        "dense",
        "layer by layer",
        "refined",
        "gain",
        "objective",
        "highest",
        "epochs",
    )
    lines = [f"| {' | '.join(heads)} | SNR, dB | seconds |", f"|{'---|' * 13}"]
    for row in rows:
        before, after = row["objective"]
        gain = f"{row['gain']:+.2f} ± {row['error']:.2f}"
        figures = f"{row['dense']:.2f} | {row['layerwise']:.2f} | {row['refined']:.2f} | {gain}"
        objective = "not tried" if before is None else f"{before:.4g} → {after:.4g}"
        work = f"{row['highest']:.3f} | {row['epochs']} ({row['taken_back']})"
        snr = " → ".join(f"{value:.1f}" for value in row["snr"])
        seconds = "shared machine" if row.get("shared") else f"{row['seconds'][1]:.0f} ({row['seconds'][0]:.0f})"
        lines.append(
            f"| {row['model']} | {row['way']} | {row['samples']} | {row['seed']} | {figures} | {objective} | {work} "
            f"| {snr} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the checks, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Refined runs beside the same runs layer by layer.")
    parser.add_argument(
        "--model", nargs="+", choices=DRAWS, default=list(MODELS), help="models; by default those of models.py"
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="seeds; by default 0")
    parser.add_argument("--way", nargs="+", choices=WAYS, default=["default"], help="ways to refine")
    parser.add_argument("--draw", action="store_true", help="draw the calibration samples by the seed, instead of all")
    parser.add_argument("--pictures", type=Path, help="folder with what arrays.py of data/imagenet writes")
    parser.add_argument("--shared", action="store_true", help="other work runs beside it: seconds are left out")
    parser.add_argument("--write", action="store_true", help="join the rows with benchmarks/results/refinement.json")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    for name in given.model:
        for seed in given.seed:
            with tempfile.TemporaryDirectory() as folder:
                samples = DRAWS[name] if given.draw else None
                for row in measure(
                    name, seed, given.way, samples=samples, pictures=given.pictures, folder=Path(folder)
                ):
                    rows.append(row | ({"shared": True} if given.shared else {}))
                    print(tabulate([row]).splitlines()[-1], flush=True)
                    if given.write:
                        joined = join_rows(rows)
                        checks = list(check_rows(joined))
                        write_results("refinement", joined, f"{table(checks)}\n{tabulate(joined)}")
    checks = list(check_rows(join_rows(rows) if given.write else rows))
    print(table(checks))
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
