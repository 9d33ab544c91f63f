"""Everything a change must pass, one session each: `nox --list` tells what there is; `.ci/run` runs the same sessions.

Sessions run in the environment that nox was started from and install nothing, so that torch is there once. See
CONTRIBUTING.md for how that environment is made.
"""

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "docs", "wheel", "tests"]

ROOT = Path(__file__).resolve().parent
SAMPLE = ROOT / "samples" / "digits"


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and its format; `nox -s lint -- --fix` repairs what can be repaired."""
    repairs = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if repairs else []), ".")
    session.run("ruff", "format", *([] if repairs else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """The type checker, strict, over the package, the passes, the tests and the fuzzing."""
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation's site under build/site; any warning fails."""
    session.run("zensical", "build", "--clean", "--strict", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Builds the wheel, checks what is in it, and prunes the sample with it instead of with the checkout."""
    forget_old_build()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        session.run("python", "-m", "build", "--wheel", "--outdir", f"{scratch}/dist", ".", silent=True)
        forget_old_build()
        (built,) = (scratch / "dist").glob("*.whl")
        session.run("check-wheel-contents", str(built))
        session.run(
            *("python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{scratch}/installed", str(built))
        )
        alone = {"PYTHONPATH": f"{scratch}/installed"}
        with session.chdir(scratch):
            expected = f"sys.exit(not p.__file__.startswith({f'{scratch}/installed'!r}))"
            session.run("python", "-c", f"import prox24_export.passes as p, sys; {expected}", env=alone)
            session.run(
                *("python", "-m", "prox24_export", str(SAMPLE / "digits_vit.onnx"), "--samples", "32"),
                *("--calibration", str(SAMPLE / "calibration.npz"), "--out", "from-wheel"),
                env=alone,
            )


@nox.session
def acceptance(session: nox.Session) -> None:
    """The promised figures on real models, without repeats; `nox -s acceptance -- --write` is the whole of them."""
    session.run("python", "benchmarks/acceptance.py", *(session.posargs or ["--quick"]))


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, or those that are named: `nox -s tests -- tests/solver -k mask`."""
    session.run("pytest", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Feeds mutated files of strangers to what reads them, for 30 s; `nox -s fuzz -- 1800 open_model` for longer."""
    session.run("python", "-m", "fuzz", *(session.posargs or ["30"]))


@nox.session
def graphs(session: nox.Session) -> None:
    """Whole runs on random graphs: 5,000 of them, or those of a range of seeds, as in `nox -s graphs -- 5000 6000`."""
    seeds = session.posargs or ["0", "5000"]
    session.run("python", "-m", "tests.graph_checks", *seeds, env={"OMP_NUM_THREADS": "1"})


@nox.session
def mutation(session: nox.Session) -> None:
    """Mutates what decides whether a model is right, and expects the tests to notice; takes long, so not in CI.

    Works on a copy in the wheel's layout, in which the passes lie inside the package: mutmut copies no links. Writes
    what came of it to benchmarks/results/mutation.json and mutation.md; `-- FOLDER` keeps the copy there and goes on
    where an earlier run in it stopped.
    """
    with tempfile.TemporaryDirectory() as name:
        copy = Path(session.posargs[0] if session.posargs else name) / "tree"
        if not copy.exists():
            ignored = shutil.ignore_patterns("__pycache__", "passes", "*-2to4")
            for part in ("prox24_export", "tests", "samples"):
                shutil.copytree(ROOT / part, copy / part, ignore=ignored)
            # `ignored` leaves out every folder of that name: the link in the package, and the tests of the passes
            shutil.copytree(ROOT / "passes", copy / "prox24_export" / "passes", ignore=ignored)
            shutil.copytree(ROOT / "tests" / "passes", copy / "tests" / "passes", ignore=ignored)
            shutil.copy(ROOT / "pyproject.toml", copy)
        with session.chdir(copy):
            session.run("mutmut", "run", "--max-children", str(os.cpu_count()), env={"OMP_NUM_THREADS": "1"})
        session.run("python", "benchmarks/mutation.py", str(copy), *session.posargs[1:])


def forget_old_build() -> None:
    """Removes setuptools' intermediate files: it would pack what an earlier build left there."""
    for folder in (ROOT / "build").glob("*"):
        if folder.name == "lib" or folder.name.startswith("bdist"):
            shutil.rmtree(folder)
