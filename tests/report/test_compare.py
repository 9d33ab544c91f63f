"""Two reports: what changed is told, what cannot be compared is not; and a run's files made again from its report."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from rich.cells import cell_len

from prox24_export.errors import InputError
from prox24_export.report import html, junit, markdown
from prox24_export.report.compare import compare, render_markdown, render_text
from prox24_export.report.files import PAGE, WRITERS, rerender_folder, write_rendered
from prox24_export.results.engine import EngineReport
from prox24_export.results.report import AccuracyReport, OutputReport, Report
from tests.report.example import build, full, later, layer
from tests.report.reports import reports


def rows(before: Report, after: Report, title: str) -> list[tuple[str, ...]]:
    return next((list(table.rows) for table in compare(before, after).tables if table.title == title), [])


def test_a_run_beside_itself_has_no_change() -> None:
    found = compare(full(), full())
    assert found.summary.startswith("0 layers differ; ")
    titles = {table.title for table in found.tables}
    assert titles == {"Accuracy of the sparse model", "Latency", "Size"}
    changes = [row[-1] for table in found.tables for row in table.rows]
    assert all(change.startswith("±0") for change in changes)


def test_layers_that_changed_are_told_with_the_reason() -> None:
    found = rows(full(), later(full()), "Layers that changed")
    assert found == [("/encoder/layers.0/q_proj/MatMul", "sparse", "dense", "excluded by the user")]
    (back,) = rows(later(full()), full(), "Layers that changed")
    assert back[1:] == ("dense", "sparse", "no longer: excluded by the user")


def test_layers_of_one_run_only_are_absent_in_the_other() -> None:
    first, second = build(layers=(layer(0), layer(3))), build(layers=(layer(1), layer(0)))
    assert [row[1:3] for row in rows(first, second, "Layers that changed")] == [
        ("dense", "absent"),
        ("absent", "sparse"),
    ]


def test_layers_of_the_same_name_are_told_apart_by_their_order() -> None:
    twice = (layer(0), replace(layer(3), name=layer(0).name))
    assert rows(build(layers=twice), build(layers=twice), "Layers that changed") == []
    assert len(rows(build(layers=twice), build(layers=twice[:1]), "Layers that changed")) == 1


def test_accuracy_and_size_have_their_change() -> None:
    accuracy = {row[0]: row[1:] for row in rows(full(), later(full()), "Accuracy of the sparse model")}
    assert accuracy["top-1"] == ("97.2 %", "96.9 %", "−0.3 points")
    assert accuracy["word_errors"] == ("4.25", "4.25", "±0")
    sizes = {row[0]: row[1:] for row in rows(full(), later(full()), "Size")}
    assert sizes["bytes of the sparse model"] == ("13,421,773", "13,500,000", "+0.583 %")
    assert sizes["sparse layers"] == ("9", "8", "−1")


def test_an_output_that_became_equal_and_one_that_is_new() -> None:
    before = build(accuracy=AccuracyReport(1, {}, {}, (OutputReport("y", 20.0, 1, 0, None),)))
    outputs = (OutputReport("y", None, 1, 0, None), OutputReport("z", math.nan, 1, 0, None))
    after = build(accuracy=AccuracyReport(1, {}, {}, outputs))
    assert rows(before, after, "Accuracy of the sparse model") == [
        ("SNR of y", "20 dB", "∞ dB", "+∞ dB"),
        ("SNR of z", "not measured", "not a number dB", ""),
    ]


def test_outputs_that_hold_no_floats_are_compared_by_their_equal_entries() -> None:
    shares = (OutputReport("y", None, None, None, None, equal=share) for share in (0.9, 0.875))
    before, after = (build(accuracy=AccuracyReport(1, {}, {}, (output,))) for output in shares)
    assert rows(before, after, "Accuracy of the sparse model") == [
        ("equal entries of y", "90 %", "87.5 %", "−2.5 points")
    ]


def test_latencies_are_compared_where_both_are_valid() -> None:
    found = {row[0]: row[1:] for row in rows(full(), later(full()), "Latency")}
    assert found["sparse, clip 1×98×40"] == ("0.66 ms", "0.62 ms", "−6.06 %")
    assert found["speed-up, clip 1×98×40"][-1] == "+6.42 %"
    assert not any("clip 8" in name for name in found)


@pytest.mark.parametrize("changes", [{"version": "11.0"}, {"device": "NVIDIA A100"}, {"precision": "bf16"}])
def test_latencies_of_different_engines_are_not_compared(changes: dict[str, str]) -> None:
    other = replace(full(), engine=replace(full().engine or EngineReport("none"), **changes))  # type: ignore[arg-type]
    assert rows(full(), other, "Latency") == []
    assert any("it is not compared" in doubt for doubt in compare(full(), other).doubts)


def test_what_makes_figures_incomparable_is_said_first() -> None:
    data = full().data
    assert data is not None
    other = replace(
        full(),
        input=replace(full().input, path="other.onnx", sha256="d" * 64),
        data=replace(data, evaluation="other.npz", report=50),
        versions={"prox24-export": "9.9"},
    )
    text = render_text(full(), other)
    folded = " ".join(text.split())
    assert "note: the dense models differ: models/kwt1.onnx and other.onnx" in folded
    assert (
        "note: accuracy was measured on 1,096 samples of clips/train.npz before, on 50 samples of other.npz" in folded
    )
    assert "note: version 0.1.0 of prox24-export before, 9.9 after" in folded
    assert text.index("note:") < text.index("Accuracy of the sparse model")
    assert "> **Note:** the dense models differ" in render_markdown(full(), other)


def test_gates_and_settings_that_differ() -> None:
    (gate,) = rows(full(), later(full()), "Gates that changed")
    assert gate[0] == "max-accuracy-drop"
    assert gate[2].startswith("failed (0.7 points")
    assert ("exclude", "*/head/*", "*/head/*, */q_proj/*") in rows(full(), later(full()), "Settings that differ")


def test_no_line_is_longer_than_100_columns_and_no_name_is_cut() -> None:
    name = "層[bold]" * 60
    before, after = build(layers=(replace(layer(0), name=name),)), build(layers=(replace(layer(3), name=name),))
    text = render_text(before, after)
    assert max(cell_len(line) for line in text.splitlines()) <= 100
    assert "".join(re.findall("[層bold\\[\\]]+", text)).count("層") == 60


def test_control_characters_do_not_reach_the_terminal() -> None:
    name = "\x1b[31mred\x07"
    before, after = build(layers=(replace(layer(0), name=name),)), build(layers=(replace(layer(3), name=name),))
    changed = replace(after, output=replace(after.output, path=name), settings={name: name})
    assert not set("\x1b\x07") & set(render_text(before, changed))


def test_ten_thousand_changes_stay_under_sixty_kilobytes() -> None:
    before = build(layers=tuple(replace(layer(0), name=f"layer{index}" * 20) for index in range(10_000)))
    after = replace(before, layers=tuple(replace(layer(3), name=entry.name) for entry in before.layers))
    text = render_markdown(before, after)
    assert len(text.encode()) < 60_000
    assert "more rows left out" in text


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(reports(), reports())
def test_any_two_reports_can_be_compared(before: Report, after: Report) -> None:
    assert max(cell_len(line) for line in render_text(before, after).splitlines()) <= 100
    assert render_markdown(before, after)


def test_a_run_is_rendered_again_from_its_report_alone(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(full().to_json(), encoding="utf-8")
    (tmp_path / "summary.md").write_text("stale", encoding="utf-8")
    written = rerender_folder(tmp_path)
    assert (
        {path.name for path in written}
        == {PAGE, *WRITERS} - {"DEPLOY.md"}
        == {"report.html", "summary.md", "junit.xml"}
    )
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == markdown.render(full())
    assert (tmp_path / "junit.xml").read_text(encoding="utf-8") == junit.render(full())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html.render(full())
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == full().to_json()


def test_no_link_in_a_strangers_folder_is_followed(tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.write_text("mine", encoding="utf-8")
    (run / "report.json").write_text(full().to_json(), encoding="utf-8")
    for name in ("report.html", "summary.md", "junit.xml"):
        for ending in ("", ".unfinished"):
            if name != "report.html" or ending:  # a page is read for its masks first
                (run / f"{name}{ending}").symlink_to(precious)
    rerender_folder(run)
    assert precious.read_text(encoding="utf-8") == "mine"
    assert not (run / "summary.md").is_symlink()


def test_what_is_written_first_and_again_is_the_same(tmp_path: Path) -> None:
    first = {path: path.read_bytes() for path in write_rendered(full(), tmp_path)}
    (tmp_path / "report.json").write_text(full().to_json(), encoding="utf-8")
    assert {path: path.read_bytes() for path in rerender_folder(tmp_path)} == first


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: folder.rmdir(), "is not a folder. Expected the output folder of a finished run."),
        (lambda _: None, "no such report: "),
        (lambda folder: (folder / "report.json").write_text("{}"), "is not a report"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_and_nothing_written(
    prepare: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(InputError, match=re.escape(said)):
        rerender_folder(folder)
    assert not (folder / "summary.md").exists()


def test_a_name_that_no_folder_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="longer than names of files can be"):
        rerender_folder(Path("n" * 300))


def test_a_report_that_cannot_be_rendered_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_report: Report) -> str:
        raise ZeroDivisionError

    monkeypatch.setitem(WRITERS, "junit.xml", broken)
    (tmp_path / "summary.md").write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        write_rendered(full(), tmp_path)
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == "old"
