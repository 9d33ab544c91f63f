"""Reads `report.json` back into a `Report`.

The dataclasses are the contract, so the reader walks them: a field that is added there is read here. The JSON Schema
beside this file tells other programs the same and is stricter, since it describes what this version writes. The reader
takes whatever a version with the same `schema_version` wrote: it leaves unknown fields out, and fields with a default
may be missing. Reading needs no validator at run time; tests hold the reader and the schema against each other.
"""

import json
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import MB, expect_file, expect_path
from prox24_export.output.destination import ONNX, find_report_folder
from prox24_export.output.manifest import REPORT, TOOL
from prox24_export.results.report import SCHEMA_VERSION, Report

ReportPart = TypeVar("ReportPart")
NOT_FINITE = frozenset({"inf", "-inf", "nan"})  # as `Report.as_dict` writes them
REMEDY = f"Give the {REPORT} of a finished run, or its folder."
LARGEST = 256 * MB
MOST = 1 << 1023  # whole numbers above it cannot be computed with: no float holds them
LONGEST = 60  # the most characters of a wrong value that a message shows


class _NotAReport(Exception):  # noqa: N818 - never seen outside this file
    """The document is not a report; the message says what was expected and where."""


def load_report(path: Path) -> Report:
    """Loads the report of a run.

    Args:
        path: `report.json`, the folder that holds it, or an ONNX file that was written under a name of its own.

    Raises:
        InputError: The file cannot be read, or is not a report of this `schema_version`.
    """
    expect_path(path, "report")
    path = find_folder(path)
    file = path / REPORT if path.is_dir() else path
    expect_file(file, "report", f"the {REPORT} of a finished run, or its folder", most=LARGEST)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}. {REMEDY}") from error
    except UnicodeError as error:
        raise InputError(f"{file} is not a report: {first_line(error)}. {REMEDY}") from error
    return parse_report(text, str(file))


def find_folder(run: Path) -> Path:
    """Finds the folder of a run that is named by its model, `x-report` for `x.onnx`; any other path stays as it is."""
    return find_report_folder(run) if run.suffix.lower() == ONNX and not run.is_dir() else run


def parse_report(text: str, source: str) -> Report:
    """Reads the report in a JSON text; `source` is what error messages call it.

    Raises:
        InputError: The text is not a report of this `schema_version`.
    """
    try:
        plain = json.loads(text, parse_constant=_refuse, parse_int=_read_whole)
        json.dumps(plain, ensure_ascii=False).encode()  # half of a surrogate pair could not be written again
        _expect_version(plain)
        report: Report = _read(Report, plain, "")
        _expect_same_metrics(report)
    except _NotAReport as error:
        raise InputError(f"{source} is not a report: {error}. {REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not a report: {first_line(error)}. {REMEDY}") from error
    return report


def read_part(kind: type[ReportPart], plain: Any) -> ReportPart:
    """Reads a part of a report, such as a row of its layers, from what JSON made of `dataclasses.asdict`.

    Args:
        kind: The dataclass of the part.
        plain: The dictionary.

    Raises:
        InputError: It is no such part.
    """
    try:
        part: ReportPart = _read(kind, plain, "")
    except _NotAReport as error:
        raise InputError(f"{kind.__name__}: {error}. {REMEDY}") from error
    return part


def load_schema() -> dict[str, Any]:
    """Loads the JSON Schema (2020-12) of `report.json`."""
    schema: dict[str, Any] = json.loads(
        files("prox24_export.results").joinpath("report.schema.json").read_text(encoding="utf-8")
    )
    return schema


def _refuse(constant: str) -> None:
    raise _NotAReport(f"JSON has no number {constant}")


def _read_whole(digits: str) -> int:
    """Reads a whole number that a float can hold, too: every writer of reports divides and rounds."""
    number = int(digits) if len(digits) < LONGEST * LONGEST else MOST
    if abs(number) >= MOST:
        raise _NotAReport(f"expected numbers that a float can hold, got a whole number of {len(digits)} digits")
    return number


def _expect_version(plain: Any) -> None:
    if not isinstance(plain, dict) or plain.get("tool") != TOOL:
        raise _NotAReport(f'expected an object whose "tool" is "{TOOL}"')
    found = plain.get("schema_version")
    if found != SCHEMA_VERSION:
        raise _NotAReport(
            f"its schema_version is {_show(found)}, and this version of {TOOL} reads {SCHEMA_VERSION}: read it with "
            "the version that wrote it, or run again"
        )


def _expect_same_metrics(report: Report) -> None:
    """Refuses metrics that only one of the two models has, since every writer shows them side by side."""
    if report.accuracy is not None and report.accuracy.dense.keys() != report.accuracy.sparse.keys():
        raise _NotAReport("expected the same metrics in accuracy.dense and accuracy.sparse")


def _read(kind: Any, value: Any, place: str) -> Any:
    """Reads `value` as the type `kind`; `place` is its path in the document, for error messages."""
    if is_dataclass(kind):
        return _read_object(kind, value, place)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        (kind,) = (entry for entry in inner if entry is not NoneType)
        return None if value is None else _read(kind, value, place)
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, place)
        return tuple(_read(inner[0], entry, f"{place}[{index}]") for index, entry in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), "an object", value, place)
        return {key: _read(inner[1], entry, f"{place}.{key}") for key, entry in value.items()}
    return _read_scalar(kind, value, place)


def _read_object(kind: Any, value: Any, place: str) -> Any:
    _expect(isinstance(value, dict), "an object", value, place)
    types, known = get_type_hints(kind), {}
    for entry in fields(kind):
        inside = f"{place}.{entry.name}".lstrip(".")
        if entry.name in value:
            known[entry.name] = _read(types[entry.name], value[entry.name], inside)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise _NotAReport(f"{inside} is missing")
    return kind(**known)


def _read_scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return _read_anything(value)
    if get_origin(kind) is Literal:
        _expect(value in get_args(kind), f"one of {', '.join(map(_show, get_args(kind)))}", value, place)
        return value
    if kind is float and isinstance(value, str) and value in NOT_FINITE:
        return float(value)
    fits = isinstance(value, (int, float) if kind is float else kind)
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    _expect(fits and (kind is bool or not isinstance(value, bool)), names[kind], value, place)
    return value


def _read_anything(value: Any) -> Any:
    """Reads a setting or fact: `Report` holds tuples where JSON has lists, and numbers that JSON does not have."""
    if isinstance(value, list):
        return tuple(map(_read_anything, value))
    if isinstance(value, dict):
        return {key: _read_anything(entry) for key, entry in value.items()}
    return float(value) if isinstance(value, str) and value in NOT_FINITE else value


def _expect(holds: bool, wanted: str, value: Any, place: str) -> None:
    if not holds:
        raise _NotAReport(f"expected {wanted} at {place or 'the top'}, got {_show(value)}")


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
