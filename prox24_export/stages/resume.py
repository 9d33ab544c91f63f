"""Where a run begins: with nothing, or with what an interrupted one has recorded beside the output folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prox24_export.errors import InputError, UnavailableError
from prox24_export.output.records import Records, find_journal
from prox24_export.process.interrupts import hold_signals, mark_resumable
from prox24_export.results.plan import Resumed
from prox24_export.settings import Settings
from prox24_export.stages.fingerprint import list_differences, take_fingerprint
from prox24_export.stages.journal import Journal
from prox24_export.stages.prepare import Job
from prox24_export.stages.run import Run


@contextmanager
def open_journal(job: Job, run: Run) -> Iterator[Journal]:
    """Opens the journal of a run, which goes on with what an interrupted run has recorded there.

    Nothing is recorded where the output folder holds a run that `--force` replaces: no later run could go on. The
    journal is removed when the block fails before anything is recorded, or, because something is unsuitable, before a
    layer is solved or once the model itself has changed. Otherwise it stays, and `output.place.take_place` removes it
    once the output is in place.

    Args:
        job: What is to be done.
        run: Takes the time.

    Raises:
        InputError: The journal is of a run with other options, data or versions, or no journal.
        OSError: A journal that is of no use cannot be removed.
    """
    settings, records = job.settings, Records(find_journal(job.target))
    is_new = settings.force or settings.no_resume
    if is_new:
        records.remove()
    if not job.linears or (job.target.exists() and any(job.target.iterdir())):
        yield Journal()
        return
    journal = Journal(records, _tell_how(job.target, records.folder, settings), run.warnings)
    with run.timed("journal"):
        fingerprint = take_fingerprint(job, run)
        if not _is_same(journal, fingerprint, job):
            records.remove()  # nothing of it can be used: its first record is not whole
            journal.write_head(fingerprint)
    if journal.is_begun():
        mark_resumable(journal.how)
    try:
        yield journal
    except BaseException as error:
        with hold_signals(), suppress(OSError, InputError):
            is_unsuitable = isinstance(error, (InputError, UnavailableError))
            if not journal.is_begun() or (is_unsuitable and not (journal.has_layers() and _is_unchanged(job))):
                records.remove()
                mark_resumable(None)
        raise


def _is_unchanged(job: Job) -> bool:
    """Whether the files of the model hold what they held when they were read."""
    try:
        job.opened.expect_unchanged()
    except (InputError, OSError):
        return False
    return True


def find_journal_to_resume(job: Job, run: Run) -> Journal:
    """Finds what a run would go on with, for a plan of it; nothing is written.

    Raises:
        InputError: The journal is of a run with other options, data or versions, or no journal.
    """
    settings, records = job.settings, Records(find_journal(job.target))
    if settings.force or settings.no_resume or not job.linears or not records.list_files():
        return Journal()
    journal = Journal(records)
    return journal if _is_same(journal, take_fingerprint(job, run), job) else Journal()


def find_resumed(journal: Journal, job: Job) -> Resumed | None:
    """Finds what of a run is done; None where there is nothing to go on with."""
    if not journal.is_begun():
        return None
    channels = journal.read_channels()
    journal.set_order(None if channels is None else channels.report)
    first, second = (frozenset(journal.layers(held_back=only).read(job.linears)) for only in (True, False))
    progress = journal.read_progress()
    state = None if progress is None else progress.state
    parts = [] if progress is None else progress.parts
    epochs = sum(len(part.curve) - 1 for part in parts) + (0 if state is None else len(state.curve) - 1)
    return Resumed(max(first, second, key=len), len(job.linears), channels is not None, epochs)


def _is_same(journal: Journal, fingerprint: dict[str, object], job: Job) -> bool:
    """Whether there is a journal of a run with this fingerprint.

    Raises:
        InputError: There is one of another run, or anything but a journal.
    """
    if journal.records is None or not journal.records.list_files() or (earlier := journal.read_head()) is None:
        return False
    differences = list_differences(earlier, json.loads(json.dumps(fingerprint)))
    if differences:
        shown = show_journal(job.target, journal.records.folder)
        raise InputError(
            f"{shown} is of an interrupted run of another kind: {'; '.join(differences)}. Give what that run was given "
            "to go on with it, start anew with --no-resume, or choose another folder with -o."
        )
    return True


def show_journal(out: Path, folder: Path) -> Path:
    """The journal's path as the user would write it: beside the output folder as it was given, where it is there."""
    beside = out.with_name(f"{out.name}{folder.suffix}") if out.name not in {"", ".."} else folder
    return beside if beside.resolve() == folder else folder


def _tell_how(out: Path, folder: Path, settings: Settings) -> str:
    options = [option for option, given in (("--force", settings.force), ("--no-resume", settings.no_resume)) if given]
    command = f"the same command without {' and '.join(options)}" if options else "the same command again"
    return f"run {command} to go on, or delete {show_journal(out, folder)}"
