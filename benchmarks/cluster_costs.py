"""What a run would cost for decoders of 7 to 405 billion weights on machines of a cluster: calculated, not measured.

    python benchmarks/cluster_costs.py [--tokens N] [--teraflops N] [--gigabits N] [--write]

It adds up what `--plan` adds up for a block of the decoder, with an assumed rate in place of the measured one, takes
the longest share of a worker where work is spread, and adds the bytes of moments that cross the network of the machine
that the run was started on. Each worker is a machine. Solved weights, activations and the head are left out.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from results_files import write_results

from prox24_export.passes.calibrate.shards import cut_shards
from prox24_export.passes.calibrate.streams import Batch
from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear, Use
from prox24_export.settings import Settings
from prox24_export.stages.plan.plan import Costs
from prox24_export.stages.plan.rates import Rates
from prox24_export.stages.work.workers import find_longest_share, find_solving_share

TOKENS_IN_BATCH, PARTS = 32 * 256, 5  # as the run joins rows of 256 tokens; a fifth chooses
WORKERS = (1, 2, 4, 9)
HOUR, TERA, GIGABIT, GIGABYTE = 3600.0, 1e12, 1e9 / 8, 1e9


@dataclass(frozen=True)
class Decoder:
    """Shapes of a decoder's block, which has four stages."""

    name: str
    blocks: int
    width: int
    inner: int
    keys: int

    def stages(self) -> list[list[Linear]]:
        """The layers of each stage."""
        d = self.width
        return [
            [make_layer("q", d, d), make_layer("k", d, self.keys), make_layer("v", d, self.keys)],
            [make_layer("o", d, d)],
            [make_layer("gate", d, self.inner), make_layer("up", d, self.inner)],
            [make_layer("down", self.inner, d)],
        ]


DECODERS = (
    Decoder("7B", 32, 4096, 11008, 4096),
    Decoder("70B", 80, 8192, 28672, 1024),
    Decoder("405B", 126, 16384, 53248, 1024),
)


def make_layer(name: str, k: int, n: int) -> Linear:
    """Makes a layer of a stage that reads one value."""
    return Linear(name, "Linear", name, "float16", Layout((n, k)), k, n, (Use(name, "x", Rows()),))


def count_bytes(stages: Sequence[Sequence[Linear]], shards: int, workers: int) -> float:
    """Counts the bytes of moments that the run's own machine takes and gives in a block.

    Each run of batches comes as two matrices; those of both parts go to every worker that solves.
    """
    pair = sum(2 * 8.0 * stage[0].k ** 2 for stage in stages)
    return 0.0 if workers == 1 else pair * (shards + 2 * workers)


def estimate(decoder: Decoder, tokens: int, teraflops: float, gigabits: float) -> dict[str, Any]:
    """Estimates the hours of a run with each number of workers."""
    rate = teraflops * TERA
    costs = Costs(Rates(single=rate, double=rate / 2, rounded=rate, cholesky=rate / 2), Settings(), parts=2)
    count = max(2, tokens // TOKENS_IN_BATCH)
    batches = [Batch("fit", {})] * (count - count // PARTS) + [Batch("choice", {})] * (count // PARTS)
    shards, stages = [len(shard) for shard in cut_shards(batches)], decoder.stages()
    weights = sum(layer.parameters for stage in stages for layer in stage)
    row: dict[str, Any] = {"decoder": decoder.name, "tokens": tokens}
    for workers in WORKERS:
        observing = 2 * 2.0 * weights * tokens / rate
        observing += sum(
            costs.seconds([stage[0].k], [], float(tokens)) - costs.seconds([stage[0].k], [], 0.0) for stage in stages
        )
        solving = sum(costs.seconds([stage[0].k], stage, 0.0) * find_solving_share(stage, workers) for stage in stages)
        computing = observing * find_longest_share(shards, workers) + solving
        sent = count_bytes(stages, len(shards), workers)
        row[f"{workers} workers: hours of computing"] = round(decoder.blocks * computing / HOUR, 2)
        row[f"{workers} workers: hours of network"] = round(decoder.blocks * sent / (gigabits * GIGABIT) / HOUR, 2)
    row["GB of moments in a stage"] = round(max(2 * 2 * 8.0 * stage[0].k ** 2 for stage in stages) / GIGABYTE, 1)
    return row


def render(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table: hours of computing and of the network."""
    lines = [
        "| decoder | one machine, h | "
        + " | ".join(f"{count} machines, h" for count in WORKERS[1:])
        + " | moments of the widest stage |",
        "|" + "---|" * (len(WORKERS) + 2),
    ]
    for row in rows:
        hours = [
            f"{row[f'{count} workers: hours of computing']:.1f}"
            + ("" if count == 1 else f" + {row[f'{count} workers: hours of network']:.1f}")
            for count in WORKERS
        ]
        lines.append(f"| {row['decoder']} | {' | '.join(hours)} | {row['GB of moments in a stage']:.0f} GB |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=1 << 18)
    parser.add_argument(
        "--teraflops", type=float, default=2.7, help="float32 operations of a machine, in 10¹² a second"
    )
    parser.add_argument("--gigabits", type=float, default=25.0, help="the network of a machine, in Gbit a second")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = [estimate(decoder, options.tokens, options.teraflops, options.gigabits) for decoder in DECODERS]
    print(render(rows))
    if options.write:
        assumed = f"{options.tokens:,} tokens, {options.teraflops:g} TFLOP/s a machine, {options.gigabits:g} Gbit/s"
        write_results("cluster_costs", rows, f"Calculated, not measured: {assumed}.\n\n{render(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
