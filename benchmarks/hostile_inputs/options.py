"""Options and the files that they name: values, paths, configurations, metrics, and reports of earlier runs."""

import functools
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from hostile_inputs.case import REFUSED, Case, make_dice, run_in_copy
from hostile_inputs.commands import DATA, FAST, MODEL, write_samples
from hostile_inputs.json_changes import change_json
from hostile_inputs.small_models import make_bytes

KIND = "options"
NUMBER_OPTIONS = (
    "--seed", "--samples", "--sequence", "--stride", "--damping", "--blend", "--refine-minutes",
    "--max-accuracy-drop", "--max-metric-change", "--min-snr", "--min-sparse-layers", "--min-speedup",
    "--workspace-mb",
)  # fmt: skip
WORD_OPTIONS = (
    "--method",
    "--effort",
    "--refine",
    "--refine-mode",
    "--engine",
    "--precision",
    "--format",
    "--force",
    "--nothing",
)
BAD_NUMBERS = (
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "x",
    "",
    "0x10",
    "1" * 400,
    "٣",
    "1,5",
    "\x1b[2J",
    "--",
    "1e-400",
    "-0.5",
    "None",
    "2**3",
)
WORDS = (
    "",
    "x",
    "\x1b[31mred",
    "\u202egpj",
    "PROX",
    "n" * 9000,
    "--",
    "-",
    "1",
    "auto auto",
    "\udcff",
    "{}",
    "%s",
    "\r",
)
PATHS = (
    "", "/", ".", "..", "model.onnx", "model.onnx/x", "/proc/x", "/dev/null", "/dev/null/x", "n" * 300, "d/" * 3000,
    "\x1b[2Jout/../..", "full", "pipe", "circle", "link", "data.npz", "/etc", "a/../..", "~", "\udcff/..",
)  # fmt: skip
SHAPES = (
    "", "x", "x:", "x:0x8", "x:-1x8", "x:1x8,2x8", "x:2x8,1x8,3x8", "y:1x8", "x:1x9", "x:8", "x:1x8,x:1x8",
    "x:99999999999x8", "'x:1x8", "x:1x8x8", "x:axb", ":1x8", "x:1e3x8", "\x1b:1x8", "x:9999999999x8", "x:1x8,8x8,4x8",
)  # fmt: skip
TOML = (
    "calibration = ", "seed = -1", "seed = 'x'", "nothing = 1", "[inspect]\nnothing = 1", "seed = 1e400",
    "format = 7", "x", "= 1", "samples = [1, 2]", "exclude = 3", "[seed]\na = 1", "seed = nan",
    "calibration = '\\u001b[2J'", "out = 7", "[[inspect]]\na = 1", "seed = 1\nseed = 2", "strict = 'perhaps'",
    "shapes = {x = 1}", "inspect = 7", "a.b.c = 1", "seed = 1979-05-27", "model = 'x'", "precision = true",
    "method = ['prox']", "force = [true]", "[tool]\nx = 1", "help = true", "version = true", "seed = {}",
    "calibration = 'gone.npz'", "include = [[1]]", "metric = 'gone:f'", "baseline = 'gone.json'",
    "refine-minutes = -1",
)  # fmt: skip
METRICS = (
    "raise ValueError('\\x1b[2J')", "return 'x'", "return None", "return float('nan')", "return [1, 'a']",
    "return {}", "return {7: 1}", "return {'\\x1b[2J': 'x'}", "return object()", "import sys; sys.exit(3)",
    "raise LookupError('x')", "raise MemoryError", "1 / 0", "return metric(run, batches)",
    "return run({'nothing': 1})", "return (1, 2, 3)", "return {'a': {'b': 1}}", "return b'x'", "return [[1, 2], [3]]",
    "return ([1], [2, 3])", "raise BaseException('x')", "return 10 ** 400", "return run(7)", "return []",
)  # fmt: skip


def make_case(index: int) -> Case:
    """Makes one command with options or files that are wrong."""
    dice = make_dice(KIND, index)
    command, prepare, said = CHANGES[index % len(CHANGES)](dice)

    def build(folder: Path) -> None:
        (folder / MODEL).write_bytes(make_bytes())
        write_samples(folder)
        prepare(folder)

    inner = said.startswith("perhaps")
    codes = REFUSED | {4} if "--out" in said else REFUSED  # a place that cannot be written is no bad input
    return Case(KIND, index, said[:220].replace("\0", "NUL"), command, build, may_be_valid=inner, codes=codes)


@functools.cache
def make_report() -> bytes:
    """The report.json of a finished run. It is made once, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        run_in_copy(lambda: _run_once(Path(name)))
        return (Path(name) / "out" / "report.json").read_bytes()


def _run_once(folder: Path) -> None:
    from prox24_export import Settings, export  # noqa: PLC0415 - only where it is run

    (folder / MODEL).write_bytes(make_bytes())
    write_samples(folder)
    export(folder / MODEL, folder / DATA, folder / "out", settings=Settings(method="magnitude"))


Prepare = Callable[[Path], object]
Made = tuple[tuple[str, ...], Prepare, str]
CALIBRATED = (MODEL, "--calibration", DATA)


def _nothing(_folder: Path) -> None:
    pass


def _number(dice: random.Random) -> Made:
    option, value = dice.choice(NUMBER_OPTIONS), dice.choice(BAD_NUMBERS)
    return (*CALIBRATED, *FAST, f"{option}={value}"), _nothing, f"perhaps: {option} {value[:40]!r}"


def _word(dice: random.Random) -> Made:
    option, value = dice.choice(WORD_OPTIONS), dice.choice(WORDS)
    sub = ("inspect", MODEL) if dice.random() < 0.3 else (*CALIBRATED, *FAST)
    valid = "perhaps: " if option == "--force" else ""
    return (*sub, f"{option}={value}"), _nothing, f"{valid}{option} {value[:40]!r}"


def _out(dice: random.Random) -> Made:
    path, force = dice.choice(PATHS), ("--force",) if dice.random() < 0.5 else ()
    marks = dice.randrange(40)

    def prepare(folder: Path) -> None:
        (folder / "full").mkdir()
        (folder / "full" / f"file{marks}").write_text("mine")
        os.mkfifo(folder / "pipe")
        (folder / "circle").symlink_to("circle")
        (folder / "link").symlink_to("gone")

    said = f"--out {path[:60]!r} {force}"
    command = (*CALIBRATED, "-q", "--method", "magnitude", f"--out={path}", *force)
    return command, prepare, f"perhaps: {said}" if path == "~" else said


def _path(dice: random.Random) -> Made:
    option, path = (
        dice.choice(("--calibration", "--evaluation", "--baseline", "--timing-cache", "--metric", "--refine-loss")),
        dice.choice((*PATHS, "gone", "os:gone", "os.path:", ":f", "a b:c", "json:loads", "gone.py:f")),
    )

    def prepare(folder: Path) -> None:
        (folder / "full").mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "circle").symlink_to("circle")
        (folder / "link").symlink_to("gone")

    given = (MODEL, "--calibration", DATA) if option != "--calibration" else (MODEL,)
    return (
        (*given, "-q", "-o", "out", "--method", "magnitude", f"{option}={path}"),
        prepare,
        f"perhaps: {option} {path[:60]!r}",
    )


def _model(dice: random.Random) -> Made:
    path = dice.choice(
        (*PATHS, *WORDS, "gone.onnx", "x.pt", "x.pkl", "x.pt2", "os:getcwd", "gone:f", "x.onnx:f", "m.engine")
    )
    command = dice.choice((("inspect",), (), ("bench", MODEL), ("report",), ("report", "full")))
    more = ("-q", "-o", "out") if not command else ("-o", "out") if command[0] == "bench" else ()
    return (*command, *more, "--", path), _make_full, f"{command} {path[:60]!r}"


def _make_full(folder: Path) -> None:
    (folder / "full").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to("circle")


def _shapes(dice: random.Random) -> Made:
    text = dice.choice(SHAPES)
    command = (
        (MODEL, *FAST, f"--shapes={text}")
        if dice.random() < 0.6
        else ("bench", MODEL, MODEL, "-o", "out", f"--shapes={text}")
    )
    batch = (f"--batch={dice.choice(BAD_NUMBERS)}",) if command[0] == "bench" and dice.random() < 0.5 else ()
    return (*command, *batch), _nothing, f"perhaps: --shapes {text!r} {batch}"


def _names(dice: random.Random) -> Made:
    command = [dice.choice(("inspect", "bench", "report", "export", "INSPECT", MODEL, "--", "-q", "\x1b[2J", "\u202e"))]
    pool = (
        MODEL,
        "-o",
        "--force",
        "--format",
        "json",
        "--help=x",
        "--version=1",
        "-x",
        "--seed",
        "--no-force",
        "",
        "--out",
    )
    command += dice.sample(pool, dice.randrange(0, 4))
    if {"--plan", "--help"} & {*command} or command == [MODEL]:
        command.append("--nothing")
    return (*command, "-qq", "--wrong"), _nothing, f"words {command}"


def _toml(dice: random.Random) -> Made:
    text = dice.choice(TOML)
    name = dice.choice(("prox24.toml", "prox24.toml", "pyproject.toml"))
    if name == "pyproject.toml":
        text = f"[tool.prox24-export]\n{text}"
    data = dice.choice(
        (
            text.encode(),
            text.encode(),
            text.encode() + b"\n" + dice.randbytes(9),
            text.encode("utf-16"),
            b"a = " + b"[" * 5000,
            text.encode() + b"\0",
        )
    )
    command = ("inspect", MODEL) if dice.random() < 0.3 else (*CALIBRATED, *FAST)

    def prepare(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return command, prepare, f"perhaps: {name}: {data[:60]!r}"


def _toml_place(dice: random.Random) -> Made:
    kind, name, marks = (
        dice.choice(("a folder", "a pipe", "a device", "a circle")),
        dice.choice(("prox24.toml", "pyproject.toml")),
        dice.randrange(30),
    )

    def prepare(folder: Path) -> None:
        (folder / f"mark{marks}").touch()
        if kind == "a folder":
            (folder / name).mkdir()
        elif kind == "a pipe":
            os.mkfifo(folder / name)
        else:
            (folder / name).symlink_to("/dev/zero" if kind == "a device" else name)

    return ("inspect", MODEL), prepare, f"perhaps: {name} is {kind} ({marks})"


def _metric(dice: random.Random) -> Made:
    body, option = dice.choice(METRICS), dice.choice(("--metric", "--metric", "--refine-loss"))
    better = dice.choice(
        ("", "", "metric.better = 7\n", "metric.better = {'\\x1b': 'up'}\n", "metric.better = 'up'\n", "metric = 7\n")
    )
    code = f"def metric(run, batches):\n    {body}\n{better}"
    if dice.random() < 0.15:
        code = dice.choice(
            ("def", "raise SystemExit(0)\n", "import gone\n", "\x00", "raise KeyError('\\x1b[2J')\n", "1/0\n")
        )

    def prepare(folder: Path) -> None:
        (folder / "own.py").write_text(code)

    more = ("--refine", "weights") if option == "--refine-loss" and dice.random() < 0.2 else ()
    return (
        (*CALIBRATED, "-q", "-o", "out", "--samples", "10", f"{option}=own:metric", *more),
        prepare,
        f"perhaps: {option}: {code[:90]!r}",
    )


def _report(dice: random.Random) -> Made:
    new, said = change_json(make_report(), dice)
    command = dice.choice(
        (
            ("report", "run"),
            ("report", "run", "good"),
            ("report", "good", "run", "--format", "markdown"),
            ("report", "good/report.json", "run/report.json"),
            (*CALIBRATED, *FAST, "--baseline", "run/report.json"),
            (MODEL, "-q", "--force", "-o", "run", "--method", "magnitude"),
        )
    )

    def prepare(folder: Path) -> None:
        for name, content in (("run", new), ("good", make_report())):
            (folder / name).mkdir()
            (folder / name / "report.json").write_bytes(content)

    return command, prepare, f"perhaps: report.json: {said}"


CHANGES: tuple[Callable[[random.Random], Made], ...] = (
    _number, _report, _word, _out, _report, _path, _model, _report, _toml, _metric, _shapes, _report, _names,
    _toml_place, _report, _number, _report, _path,
)  # fmt: skip
