"""Everything that a run has found, as one report."""

import time
from collections.abc import Sequence

from prox24_export.facts import machine
from prox24_export.output.manifest import TOOL
from prox24_export.results.engine import EngineReport, Estimate
from prox24_export.results.interface import ModelInterface
from prox24_export.results.permutation import PermutationReport
from prox24_export.results.report import AccuracyReport, Gate, Report
from prox24_export.stages.device import describe_devices
from prox24_export.stages.interface import measure_compressed, read_interface
from prox24_export.stages.prepare import Job
from prox24_export.stages.run import Run
from prox24_export.stages.solve import SolvedModel
from prox24_export.stages.write import WrittenModel


def assemble_report(  # noqa: PLR0917 - in the order in which they were found
    job: Job,
    permutation: PermutationReport | None,
    solved: SolvedModel,
    written: WrittenModel,
    accuracy: AccuracyReport | None,
    estimate: Estimate | None,
    engine: EngineReport,
    gates: Sequence[Gate],
    run: Run,
) -> Report:
    """The report of a run; the arguments are what its stages returned."""
    interface = run.attempt("interface", lambda: read_interface(written), ModelInterface())
    files = job.frontend.find_written(written.path).files(written.sparse)
    compressed = run.attempt("compressed size", lambda: measure_compressed(files.values()), None)
    return Report(
        tool=TOOL,
        versions=run.versions,
        machine=machine.describe_machine() | {"peak_memory_mb": round(machine.measure_peak_mb(), 1)},
        started=run.started,
        settings=job.settings.as_dict(),
        input=job.opened.facts,
        output=written.facts,
        data=job.facts,
        layers=tuple(solved.pruned.layers),
        accuracy=accuracy,
        gates=tuple(gates),
        warnings=tuple(run.warnings),
        executions=solved.pruned.executions,
        permutation=permutation,
        refinement=solved.refinement,
        estimate=estimate,
        engine=engine,
        budget=solved.budget,
        faults=tuple(run.faults),
        interface=interface,
        compressed=compressed,
        device=describe_devices(job.devices if job.workers is None else job.devices[:1], run.on_host),
        seconds=run.seconds | {"total": round(time.perf_counter() - run.start, 3)},
    )
