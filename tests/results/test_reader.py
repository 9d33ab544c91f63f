"""`report.json`: the schema and the reader accept what a run writes, and refuse what is broken."""

import dataclasses
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from prox24_export import Settings, export
from prox24_export.errors import InputError
from prox24_export.results.reader import load_report, load_schema, parse_report
from prox24_export.results.report import LayerReport, OutputReport, Report
from tests.graphs import model, normal, save
from tests.report.example import build, full, nothing_eligible
from tests.report.reports import reports

SCHEMA = load_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
SCALARS = {str: "string", int: "integer", bool: "boolean"}
SHARES = {"share", "sparse_share"}  # always finite, and bounded in place of `number`
Place = tuple[str | int, ...]


@cache
def full_text() -> str:
    return full().to_json()


def plain(report: Report | None = None) -> Any:
    return json.loads(report.to_json() if report else full_text())


def accepts(document: Any) -> bool:
    return bool(VALIDATOR.is_valid(document))


def refuses_to_load(document: Any) -> str:
    with pytest.raises(InputError, match=r"^it is not a report: ") as caught:
        parse_report(json.dumps(document), "it")
    return str(caught.value)


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place below the top, the first entry of each list standing for all."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, entry in inside:
        yield (*place, key)
        yield from places(entry, (*place, key))


def at(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def changed(place: Place, value: Any) -> Any:
    document = plain()
    at(document, place[:-1])[place[-1]] = value
    return document


def without(place: Place) -> Any:
    document = plain()
    del at(document, place[:-1])[place[-1]]
    return document


def required_at(place: Place) -> list[str]:
    """The fields that the schema requires of what stands at a place."""
    entry = SCHEMA
    for key in (*place, None):
        entry = next((kind for kind in entry.get("anyOf", ()) if kind != {"type": "null"}), entry)
        entry = SCHEMA["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry
        if isinstance(key, str):
            entry = entry.get("properties", {}).get(key, entry.get("additionalProperties"))
        elif key is not None:
            entry = entry["items"]
    return list(entry.get("required", ()))


def is_typed(place: Place) -> bool:
    """Whether the contract says what stands there: of settings and machine it does not."""
    return place[0] not in {"settings", "machine"} or len(place) == 1


def dataclasses_of(kind: Any) -> dict[str, Any]:
    """Every dataclass that is reached from one, by name."""
    if not dataclasses.is_dataclass(kind):
        return {name: found for inner in get_args(kind) for name, found in dataclasses_of(inner).items()}
    assert isinstance(kind, type)
    found: dict[str, Any] = {kind.__name__: kind}
    for inner in get_type_hints(kind).values():
        found |= dataclasses_of(inner)
    return found


def expected(kind: Any, name: str) -> Any:  # noqa: PLR0911 - one for each kind of type
    """What the schema must say of a field of this type, but for its description and its bounds."""
    if kind is Any:
        return {}
    if dataclasses.is_dataclass(kind):
        return {"$ref": f"#/$defs/{kind.__name__}"}  # type: ignore[union-attr]
    if kind is float:
        return {"type": "number"} if name in SHARES else {"$ref": "#/$defs/number"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        (only,) = (entry for entry in inner if entry is not NoneType)
        return {"anyOf": [expected(only, name), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        assert inner[1:] == (Ellipsis,), "the reader knows tuples of any length only"
        return {"type": "array", "items": expected(inner[0], name)}
    if origin is dict:
        return {"type": "object", "additionalProperties": expected(inner[1], name)}
    return {"type": SCALARS[kind]}


def said(entry: dict[str, Any]) -> dict[str, Any]:
    annotations = {"description", "minimum", "maximum", "pattern"}
    return {key: value for key, value in entry.items() if key not in annotations}


KINDS = dataclasses_of(Report)


def test_the_schema_is_a_schema_of_2020_12() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", KINDS)
def test_every_field_is_in_the_schema_with_its_type_and_a_description(name: str) -> None:
    entry = SCHEMA if name == "Report" else SCHEMA["$defs"][name]
    fields, hints = dataclasses.fields(KINDS[name]), get_type_hints(KINDS[name])
    assert set(entry["properties"]) == {field.name for field in fields}
    missing = dataclasses.MISSING
    needed = {f.name for f in fields if f.default is missing and f.default_factory is missing}
    assert set(entry["required"]) == needed | ({"schema_version"} if name == "Report" else set())
    assert entry["additionalProperties"] is False
    for field in fields:
        found = entry["properties"][field.name]
        assert found["description"].endswith("."), field.name
        if "const" not in found:
            assert said(found) == expected(hints[field.name], field.name), field.name


def test_the_schema_has_nothing_beside_the_dataclasses() -> None:
    assert set(SCHEMA["$defs"]) == set(KINDS) - {"Report"} | {"number"}
    assert {"LatencyPoint", "Change", "Gate", "LayerDiagnosis", "ShapeShare"} <= set(KINDS)


@pytest.mark.parametrize("report", [full(), build(), nothing_eligible(), build(refinement=None)])
def test_what_is_written_fits_the_schema_and_is_read_back_as_it_was(report: Report) -> None:
    VALIDATOR.validate(plain(report))
    assert parse_report(report.to_json(), "it") == report


def test_a_real_run_fits_the_schema_and_is_read_back_as_it_was(tmp_path: Path) -> None:
    graph = "g (float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }"
    path = save(model(graph, {"w": normal(16, 8)}), tmp_path)
    limits = Settings(min_snr=1.0, exclude=("inf*",))
    report = export(path, [{"x": normal(8, 16, seed=seed)} for seed in range(4)], tmp_path / "out", settings=limits)
    VALIDATOR.validate(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")))
    assert load_report(tmp_path / "out") == load_report(tmp_path / "out" / "report.json") == report


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_has_not_are_read_back_as_numbers(value: float) -> None:
    accuracy = full().accuracy
    assert accuracy is not None
    outputs = (OutputReport("inf", value, value, value, value),)
    report = dataclasses.replace(
        full(),
        accuracy=dataclasses.replace(accuracy, outputs=outputs, dense={"nan": value}, sparse={"nan": value}),
        settings={"limit": value, "pair": (1, value), "of": {"a": value}},
        seconds={"inf": value},
    )
    VALIDATOR.validate(plain(report))
    back = parse_report(report.to_json(), "it")
    assert repr(back) == repr(report)  # NaN equals nothing, but is written alike
    assert back.accuracy is not None
    assert back.accuracy.outputs[0].name == "inf"


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(reports())
def test_any_report_is_read_back_as_it_was(report: Report) -> None:
    back = parse_report(report.to_json(), "it")
    assert repr(back) == repr(report)
    assert back.to_json() == report.to_json()


@pytest.mark.parametrize("place", [place for place in places(plain()) if is_typed(place)], ids=str)
def test_a_wrong_type_is_caught_wherever_it_stands(place: Place) -> None:
    wrong = "wrong" if isinstance(at(plain(), place), (dict, list)) else {"wrong": [True]}
    document = changed(place, wrong)
    assert not accepts(document)
    message = refuses_to_load(document)
    assert place[0] in {"tool", "schema_version"} or str(place[-1]) in message
    assert "Give the report.json of a finished run" in message


REQUIRED = [place for place in places(plain()) if is_typed(place) and place[-1] in required_at(place[:-1])]


@pytest.mark.parametrize("place", REQUIRED, ids=str)
def test_what_is_missing_is_named(place: Place) -> None:
    document = without(place)
    assert not accepts(document)
    message = refuses_to_load(document)
    assert place[-1] in {"tool", "schema_version"} or f"{place[-1]} is missing" in message


def test_most_fields_are_required() -> None:
    assert len(REQUIRED) > 60
    assert {("layers",), ("gates",), ("layers", 0, "state"), ("engine", "latency", 0, "speedup", "low")} <= set(
        REQUIRED
    )


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("layers", 0, "state"), "pruned"),
        (("engine", "engine"), "auto"),
        (("gates", 0, "verdict"), "maybe"),
        (("accuracy", "better", "top1"), "up"),
        (("accuracy", "samples"), 10.5),
        (("accuracy", "samples"), True),
        (("layers", 0, "share"), True),
        (("gates", 0, "passed"), 1),
        (("gates", 0, "value"), "Infinity"),
        (("layers",), None),
        (("schema_version",), 2),
        (("schema_version",), "1"),
        (("tool",), "coverage"),
        (("engine", "latency", 0, "shapes", "clip"), ["1"]),
    ],
)
def test_a_planted_breakage_is_caught_by_schema_and_reader(place: Place, value: Any) -> None:
    document = changed(place, value)
    assert not accepts(document)
    refuses_to_load(document)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("layerz",), []),
        (("layers", 0, "relative_eror"), 0.1),
        (("input", "sha256"), "a" * 63),
        (("input", "bytes"), -1),
        (("layers", 0, "share"), 1.5),
        (("layers", 0, "reason"), "a sparse layer has none"),
        (("layers", 3, "reason"), ""),
        (("started",), "yesterday"),
    ],
)
def test_what_this_version_would_not_write_is_caught_by_the_schema(place: Place, value: Any) -> None:
    assert not accepts(changed(place, value))


def test_the_unchanged_document_is_accepted() -> None:
    assert accepts(changed(("tool",), "prox24-export"))


def test_a_later_version_may_add_fields_and_an_earlier_one_may_lack_those_with_a_default() -> None:
    document = changed(("layers", 0, "new"), [1])
    del document["engine"], document["gates"][0]["verdict"]
    report = parse_report(json.dumps(document), "it")
    assert report.engine is None
    assert report.gates[0].verdict == ""
    assert report.layers == full().layers


def test_metrics_of_one_model_only_are_refused() -> None:
    assert "the same metrics" in refuses_to_load(changed(("accuracy", "sparse"), {"top1": 1.0}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1]", 'expected an object whose "tool" is "prox24-export"'),
        (b'{"tool": "prox24-export"}', "its schema_version is null, and this version of prox24-export reads 1"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": NaN}', "JSON has no number NaN"),
        (b'{"a": 1' + b"0" * 400 + b"}", "a whole number of 401 digits"),
        (b'{"a": -1' + b"0" * 9000 + b"}", "a whole number of 9002 digits"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
    ],
)
def test_a_file_that_is_no_report_is_refused_in_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_report(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'report.json'} is not a report: ")
    assert said in message
    assert message.endswith("Give the report.json of a finished run, or its folder.")
    assert "\n" not in message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such report: .*report\.json\. Expected the report\.json of a fin"):
        load_report(tmp_path)


def test_a_report_that_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(InputError, match=r"report\.json is a folder"):
        load_report(tmp_path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"holds 1048576\.0 MB"):
        load_report(tmp_path / "large")
    with pytest.raises(InputError, match="NUL byte"):
        load_report(Path("a\0b"))


def test_a_long_wrong_value_is_cut() -> None:
    message = refuses_to_load(changed(("started",), ["x" * 5000]))
    assert message.startswith('it is not a report: expected a text at started, got ["xxx')
    assert len(message) < 200


def test_a_layer_keeps_a_whole_number_whole() -> None:
    report = build(layers=(LayerReport("a", "Gemm", "w", 8, 8, 64, 1, "sparse"),))
    assert parse_report(report.to_json(), "it").to_json() == report.to_json()


def test_a_name_that_no_encoding_takes_is_shown_by_its_code() -> None:
    report = dataclasses.replace(full(), settings={"timing_cache": "a\udcff"})
    text = report.to_json()
    text.encode("utf-8")
    assert parse_report(text, "it").settings == {"timing_cache": "a\\udcff"}
