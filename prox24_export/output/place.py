"""The place of a run: taken before any work, replaced at the end in one step, and left as it was on any failure."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prox24_export.errors import InputError, Prox24Error, describe_fault
from prox24_export.output import beside, manifest, target
from prox24_export.output.destination import Destination
from prox24_export.output.exchange import exchange, find_aside, sync, write_through
from prox24_export.output.lock import hold_lock
from prox24_export.output.records import Records, find_journal
from prox24_export.process.interrupts import hold_signals, mark_finished, raise_if_interrupted
from prox24_export.process.stderr import open_stderr

UNFINISHED, RUN = ".unfinished", "run"


@contextmanager
def take_place(
    out: Path, *sources: object, force: bool, journaled: bool = False, model: Path | None = None
) -> Iterator[Path]:
    """Takes the place of an output folder, and puts what the block has written there when it ends well.

    What is there stays until then. When the block fails, nothing is left of the run.

    Args:
        out: The output folder.
        sources: What the run reads, as far as it is known before the work; what is no path does not count.
        force: Whether a finished run may be replaced.
        journaled: Whether the run keeps a journal beside the output folder, which has served when that is in place.
        model: An ONNX file that the run writes beside the output folder, into `beside.find_model_folder`; None where
            everything is in the folder.

    Yields:
        The folder to write to.

    Raises:
        InputError: The folder must not be written, or another run is writing it.
        Prox24Error: Somebody else made the folder meanwhile; the error says where the result is.
        OSError: The folder cannot be written.
    """
    place = target.expect_place(out)
    target.expect_outside(out, sources, model)
    if model is not None:
        target.expect_model_place(model, out)
    goal = Destination(place, None if model is None else place.with_name(model.name))
    above = [parent for parent in place.parents if not parent.exists()]
    around, aside = place.with_name(place.name + UNFINISHED), find_aside(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(place) as lock:
            with hold_signals():
                if model is not None and lock.left:
                    _keep_what_no_run_wrote(beside.finish_settling(around, goal) / place.name, place)
                _remove_leftovers(place, around, aside, left=lock.left)
                lock.stays = False
                if journaled and lock.left and manifest.read_listed(place) is not None:
                    _remove_journal(place)  # of the finished run, which was killed between its last two steps
            target.expect_model_replaceable(Destination(out, model), force=force)
            target.expect_replaceable(out, force=force)
            try:
                work = around / RUN
                for folder in dict.fromkeys((work, beside.find_model_folder(work, model))):
                    folder.mkdir(parents=True, exist_ok=True)
                yield work
                _finish(Destination(out, model), goal, work, force=force, journaled=journaled)
            finally:
                with hold_signals():
                    shutil.rmtree(around, ignore_errors=True)
                    lock.stays = around.exists() or aside.exists()
    except BaseException:
        with hold_signals():
            _remove_empty(above)
        raise


@contextmanager
def make_scratch(folder: Path) -> Iterator[Path]:
    """Makes a folder beside `folder`, which `take_place` has made, and removes it when the block ends."""
    place = Path(tempfile.mkdtemp(prefix="scratch.", dir=folder.parent))
    try:
        yield place
    finally:
        with hold_signals():
            shutil.rmtree(place, ignore_errors=True)


def _finish(named: Destination, goal: Destination, work: Path, *, force: bool, journaled: bool) -> None:
    """Puts the finished folder `work`, and the model beside it, into their places; all is on the disk before.

    Args:
        named: The places as the user wrote them.
        goal: The same with all links resolved.
        work: The finished folder.
        force: Whether a finished run may be replaced.
        journaled: Whether a journal stands beside the output folder, which has served then.
    """
    place = goal.folder
    raise_if_interrupted()
    for folder in {work, beside.find_model_folder(work, goal.model)}:
        write_through(folder)
    with hold_signals():
        try:
            target.expect_model_replaceable(goal, force=force)
            target.expect_replaceable(place, force=force)
            replaced = _replace(place, work) if goal.model is None else beside.settle(work, goal) / place.name
        except (InputError, OSError) as error:
            _bring_together(work, goal)
            kept = _move_to_free_name(work, place)
            mark_finished(kept)
            if journaled:
                _remove_journal(place)
            told = describe_fault(error)
            raise Prox24Error(f"{told}. It was not so when the run began. The finished run is in {kept}.") from error
        mark_finished(named.model or named.folder)
        with suppress(OSError):  # it stands; when the disk learns its name is all that is left
            sync(place.parent)
        if journaled:
            _remove_journal(place)
        _keep_what_no_run_wrote(replaced, place)


def _bring_together(work: Path, goal: Destination) -> None:
    """Brings a model that cannot take its place into the folder of its report, as far as it is not there."""
    if goal.model is not None and (model_folder := beside.find_model_folder(work, goal.model)).is_dir():
        for file in model_folder.iterdir():
            file.rename(work / file.name)


def _replace(place: Path, work: Path) -> Path:
    """Puts `work` in the place of what is there, which is at `work` then; returns that path."""
    if not place.exists() or not any(place.iterdir()):
        work.rename(place)  # takes the place of an empty folder, too, and of nothing else
    else:
        exchange(work, place)
    return work


def _remove_journal(place: Path) -> None:
    """Removes the journal of a run that is finished; what cannot be removed, or is no journal, stays."""
    with suppress(OSError, InputError):
        Records(find_journal(place)).remove()


def _keep_what_no_run_wrote(earlier: Path, place: Path) -> None:
    """Keeps an earlier run under a free name where somebody has put a file into it at the last moment.

    Otherwise it is removed with the folder that it is in now.
    """
    try:
        others = manifest.find_others(earlier, manifest.read_listed(earlier) or frozenset()) if earlier.exists() else []
    except OSError:
        others = ["what cannot be looked at"]
    if others:
        kept = _move_to_free_name(earlier, place)
        open_stderr().write(f"prox24-export: the earlier run is kept in {kept}, since it holds {others[0]}.\n")


def find_free_name(place: Path) -> Path:
    """Finds a name that nothing has: that of `place` with `-2`, `-3` and so on behind it."""
    free = (place.with_name(f"{place.name}-{number}") for number in itertools.count(2))
    return next(path for path in free if not path.exists() and not path.is_symlink())


def _move_to_free_name(work: Path, place: Path) -> Path:
    kept = find_free_name(place)
    work.rename(kept)
    return kept


def _remove_leftovers(place: Path, around: Path, aside: Path, *, left: bool) -> None:
    """Removes what a killed run of this output has left; its lock is the proof that it was one of ours.

    Raises:
        InputError: What is there was not left by a run.
        OSError: It cannot be removed.
    """
    for path in (around, aside):
        there = path.exists() or path.is_symlink()
        if there and not (left and path.is_dir() and not path.is_symlink() and (path == around or _is_run(path))):
            raise InputError(f"{path} is in the way of the output {place}. Move it, or choose another folder with -o.")
    if aside.exists() and not place.exists():
        aside.rename(place)
    for path in (around, aside):
        if path.exists():
            shutil.rmtree(path)


def _is_run(folder: Path) -> bool:
    """Whether a folder is a finished run and holds nothing else."""
    listed = manifest.read_listed(folder)
    return listed is not None and not manifest.find_others(folder, listed)


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders, innermost first, as far as they exist and nobody else has put anything into them."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
