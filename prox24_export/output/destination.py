"""Where a run writes: into a folder, or an ONNX file under a name of its own and the rest into a folder beside it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ONNX, DATA, REPORT = ".onnx", ".data", "-report"  # of `x.onnx`, `x.onnx.data` and `x-report`
ABOVE = "../"  # of the names of files that a report lists and that lie beside its folder


@dataclass(frozen=True)
class Destination:
    """Where the output of a run goes.

    Attributes:
        folder: The folder with the report; without `model` it holds everything.
        model: The ONNX file that the user named; None where a folder was named.
    """

    folder: Path
    model: Path | None = None

    @classmethod
    def read(cls, out: str | Path) -> "Destination":
        """Reads what was given as the output: a name that ends in `.onnx` is that of a file, any other of a folder."""
        path = Path(out)
        return cls(find_report_folder(path), path) if path.suffix.lower() == ONNX else cls(path)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files beside the folder that the run may write: the model and its external data; none for a folder."""
        return () if self.model is None else (self.model, find_data(self.model))


def find_report_folder(model: Path) -> Path:
    """The folder of the report of a model that was written under a name of its own: `x-report` for `x.onnx`."""
    return model.with_name(model.name.removesuffix(model.suffix) + REPORT)


def find_data(model: Path) -> Path:
    """The file of the external data of an ONNX file: `x.onnx.data` for `x.onnx`."""
    return model.with_name(model.name + DATA)


def find_run_folder(output: str, files: Iterable[str]) -> Path:
    """The folder of a finished run, from what its report says: the path of the model, and the names of all files."""
    model = Path(output)
    return find_report_folder(model) if model.name in list_beside(files) else model.parent


def list_beside(files: Iterable[str]) -> list[str]:
    """The names of those files that a report lists and that lie beside its folder."""
    names = (name.removeprefix(ABOVE) for name in files if name.startswith(ABOVE))
    return [name for name in names if name not in {"", ".", ".."} and "/" not in name]
