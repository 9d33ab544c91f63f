"""Faults of the system at the nth step: a full disk, no memory, files that cannot be opened, and signals."""

from pathlib import Path

from hostile_inputs.case import Case, make_dice
from hostile_inputs.commands import DATA, FAST, MODEL, write_samples
from hostile_inputs.small_models import make_bytes

KIND = "system faults"
DISK = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.scandir",
    "os.listdir",
    "fsync",
    "os.chmod",
)
ENDS = frozenset({2, 3, 4, 130})
COMMANDS = (
    (MODEL, "--calibration", DATA, *FAST), (MODEL, "--calibration", DATA, *FAST), (MODEL, *FAST), ("inspect", MODEL),
    (MODEL, "--calibration", DATA, "-q", "-o", "out", "--refine", "weights", "--samples", "8"),
)  # fmt: skip


def make_case(index: int) -> Case:
    """Makes a valid input, and says what fails while it is read."""
    dice = make_dice(KIND, index)
    command = dice.choice(COMMANDS)
    inspects = command[0] == "inspect"
    match index % 6:
        case 0 | 1:
            spec = f"{dice.choice(DISK)}:{dice.choice(('ENOSPC', 'EIO', 'EACCES', 'EROFS'))}:{dice.randrange(1, 30)}"
        case 2:
            spec = f"call:MemoryError:{dice.randrange(1, 300 if inspects else 2500)}"
        case 3:
            spec = f"call:SIGINT:{dice.randrange(1, 300 if inspects else 3000)}"
        case 4:
            kind = dice.choice(("size", "size", "files"))
            spec = f"limit:{kind}:{dice.randrange(1500, 60_000) if kind == 'size' else dice.randrange(6, 40)}"
        case _:
            event, kind = (
                dice.choice(("session", "call", "open")),
                dice.choice(("MemoryError", "RuntimeError", "OSError")),
            )
            spec = f"{event}:{kind}:{dice.randrange(1, 40)}"

    def build(folder: Path) -> None:
        (folder / MODEL).write_bytes(make_bytes())
        write_samples(folder)

    return Case(KIND, index, spec, command, build, may_be_valid=True, codes=ENDS, inject=spec)
