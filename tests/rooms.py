"""The rooms of the house, read from the files, and the arrows between them, read from the imports.

A level is a folder that has folders in it; its rooms are those folders and the modules that lie loose beside them. An
arrow leads from the room that imports to the room that is imported. Imports inside functions, under `TYPE_CHECKING`,
relative ones, and those by name through `importlib` count as much as any other.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "prox24_export"
PASSES = f"{PACKAGE}.passes"
IMPORTERS = {"import_module", "__import__"}
TOP = "__init__"  # a level's own __init__.py, which may import every room of it

# From the ground floor up: a room may import those before it, and none behind it.
ORDER = {
    PACKAGE: (
        *("errors", "process", "input_files", "option_values", "progress", "user_code", "shapes", "output", "options"),
        *("results", "facts", "solver", "passes", "data", "models", "validation", "engines", "settings", "stages"),
        *("budget", "report", "bench", "pipeline", "cli", "__main__", TOP),
    ),
    PASSES: (
        *("graph", "find_linears", "verify_pattern", "calibrate", "sparsify", "front_onnx", "front_torch"),
        *("onnx_to_fx", "permute", "refine", "precision", "quantise", "emit_engine", TOP),
    ),
    f"{PASSES}.onnx_to_fx": (
        *("table", "operators", "steps", "convert", "check", "device_function", "device_stages", TOP),
    ),
    f"{PACKAGE}.stages": (
        *("norms", "memory", "device_memory", "device_kernels", "device", "weight_store", "gradient", "lower"),
        *("journal", "picture_options", "open_model", "samples", "run", "work", "prune", "dense_outputs", "prepare"),
        *("permute", "measure", "judge", "refine", "solve", "write", "fingerprint", "resume", "interface"),
        *("engines", "assemble", "plan", TOP),
    ),
    f"{PACKAGE}.engines": (
        *("timing", "products", "gpus", "gain", "estimate", "diagnosis", "tensorrt", "torch_sparse"),
        *("onnxruntime", "choice", TOP),
    ),
}


@dataclass(frozen=True)
class Arrow:
    """One import: module and line that import, and the module that is imported."""

    source: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


@dataclass(frozen=True)
class House:
    """Modules by dotted name, with their files, and the arrows between them."""

    files: Mapping[str, Path]
    arrows: tuple[Arrow, ...]

    def levels(self) -> dict[str, frozenset[str]]:
        """Rooms of each level, by the level's dotted name."""
        folders = {name for name, file in self.files.items() if file.stem == "__init__"}
        parents = {folder.rpartition(".")[0] for folder in folders} & folders
        return {level: frozenset(self._rooms(level)) for level in parents}

    def _rooms(self, level: str) -> Iterator[str]:
        for name in self.files:
            if name.startswith(f"{level}."):
                yield name.removeprefix(f"{level}.").partition(".")[0]

    def crossings(self, level: str) -> Iterator[tuple[str, str, Arrow]]:
        """(room, room, arrow) of every arrow between two rooms of a level."""
        for arrow in self.arrows:
            source, target = _room(level, arrow.source), _room(level, arrow.target)
            if source and target and source != target:
                yield source, target, arrow

    def cycle(self) -> list[str]:
        """Modules that import each other in a circle; empty where none do."""
        graph: dict[str, set[str]] = {}
        for arrow in self.arrows:
            graph.setdefault(arrow.source, set()).add(arrow.target)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []


def _room(level: str, module: str) -> str:
    """The room of a level in which a module lies; empty where it lies outside."""
    if module == level:
        return TOP
    return module.removeprefix(f"{level}.").partition(".")[0] if module.startswith(f"{level}.") else ""


def read_house(folders: Mapping[str, Path]) -> House:
    """Reads every module below the folders.

    Args:
        folders: Where each package lies, by its dotted name; a link inside one to another is not followed.
    """
    files = {}
    for package, folder in folders.items():
        for file in sorted(folder.rglob("*.py")):
            if not any(parent.is_symlink() for parent in file.parents):
                parts = file.relative_to(folder).with_suffix("").parts
                files[".".join((package, *(part for part in parts if part != "__init__")))] = file
    arrows = [arrow for name, file in files.items() for arrow in _arrows(name, file, files)]
    return House(files, tuple(arrows))


def _arrows(module: str, file: Path, known: Mapping[str, Path]) -> Iterator[Arrow]:
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for name in _imported(node, package, known):
            if name in known and name != module:
                yield Arrow(module, node.lineno, name)  # type: ignore[attr-defined] # statements and calls have one


def _imported(node: ast.AST, package: str, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules that a statement or a call imports."""
    match node:
        case ast.Import(names=names):
            yield from (_nearest(alias.name, known) for alias in names)
        case ast.ImportFrom(module=name, names=names, level=level):
            parts = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            origin = ".".join([*parts, *([name] if name else [])])
            for alias in names:
                yield _nearest(f"{origin}.{alias.name}", known)
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(name)), *_]):
            if called in IMPORTERS:
                yield _nearest(name, known)


def _nearest(name: str, known: Mapping[str, Path]) -> str:
    """The module that a dotted name lies in: itself, or the one that defines it."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name
