"""Options from files: which counts most, what is refused, and what paths are relative to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App, CycloptsError

from prox24_export import cli
from prox24_export.options import config
from prox24_export.settings import Settings
from prox24_export.shapes import ShapeRange

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command as it is, with the files' options; gives the arguments that its function would get."""
    monkeypatch.chdir(tmp_path)
    # a copy: the application itself is shared by all tests
    app = App(name="prox24-export", config=config.list_sources(), default_parameter=cli.PLAIN)
    app.default(cli.export)
    app.command(cli.inspect)
    app.command(cli.bench)

    def parsed(*arguments: str) -> dict[str, Any]:
        _, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
        return bound.arguments

    return parsed


def write(folder: Path, *, own: str = "", project: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if own:
        (folder / "prox24.toml").write_text(own, "utf-8")
    if project:
        (folder / "pyproject.toml").write_text(project, "utf-8")


def test_options_come_from_the_command_line_then_prox24_toml_then_pyproject_toml(run: Run, tmp_path: Path) -> None:
    table = '[tool.prox24-export]\nmin-snr = 1\nseed = 1\nmax-accuracy-drop = 0.25\nexclude = ["head*", "stem*"]\n'
    write(tmp_path, own="min-snr = 2\nseed = 2\n", project=f'[project]\nname = "mine"\n{table}')
    found = run("net.onnx", "--min-snr", "3")["settings"]
    assert found == Settings(min_snr=3, seed=2, max_accuracy_drop=0.25, exclude=("head*", "stem*"))


def test_without_files_and_with_a_project_that_says_nothing_the_defaults_hold(run: Run, tmp_path: Path) -> None:
    assert set(run("net.onnx")) == {"model"}
    write(tmp_path, project="[tool.ruff]\nline-length = 100\n")
    assert set(run("net.onnx")) == {"model"}


def test_types_are_those_of_the_options(run: Run, tmp_path: Path) -> None:
    write(tmp_path, own='onnx = true\nmethod = "wanda"\nsamples = 12\nshapes = ["x:1x8", "y:2"]\n')
    shapes = {"x": ShapeRange((1, 8), (1, 8), (1, 8)), "y": ShapeRange((2,), (2,), (2,))}
    assert run("net.onnx")["settings"] == Settings(onnx=True, method="wanda", samples=12, shapes=shapes)
    write(tmp_path, own="shapes = []\nexclude = []\nstrict = false\n")
    assert run("net.onnx")["settings"] == Settings()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("max-acuracy-drop = 1\n", "max-acuracy-drop"),
        ("[gates]\nmin-snr = 1\n", "gates"),
        ('min-snr = "high"\n', "high"),
        ('method = "lottery"\n', "lottery"),
    ],
)
def test_a_misspelt_key_or_a_wrong_value_is_an_error_that_names_it_and_the_file(
    own: str, said: str, run: Run, tmp_path: Path
) -> None:
    write(tmp_path, own=own)
    with pytest.raises(CycloptsError) as told:
        run("net.onnx")
    assert said in str(told.value)
    assert "prox24.toml" in str(told.value)


def test_a_misspelt_key_of_pyproject_toml_names_that_file(run: Run, tmp_path: Path) -> None:
    write(tmp_path, project="[tool.prox24-export]\nmin-snrr = 1\n")
    with pytest.raises(CycloptsError, match=r"min-snrr.* from .*pyproject\.toml"):
        run("net.onnx")


@pytest.mark.parametrize("content", [b"min-snr = \n", b"\xff\xfe", b"min-snr = 1\nmin-snr = 2\n"])
def test_what_is_no_toml_is_an_error_that_names_the_file(content: bytes, run: Run, tmp_path: Path) -> None:
    (tmp_path / "prox24.toml").write_bytes(content)
    with pytest.raises(CycloptsError, match=r"prox24\.toml cannot be read: .* Expected a TOML file\."):
        run("net.onnx")


def test_a_folder_of_that_name_is_an_error_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prox24.toml").mkdir()
    with pytest.raises(CycloptsError, match=r"prox24\.toml is a folder\. Expected a TOML file"):
        run("net.onnx")


def test_values_too_deep_within_each_other_are_an_error_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prox24.toml").write_text("a = " + "[" * 10_000, encoding="utf-8")
    with pytest.raises(CycloptsError, match=r"prox24\.toml cannot be read: .* Expected a TOML file"):
        run("net.onnx")


def test_a_table_that_is_none_is_an_error(run: Run, tmp_path: Path) -> None:
    write(tmp_path, project='[tool]\nprox24-export = "strict"\n')
    with pytest.raises(CycloptsError, match="must be a mapping"):
        run("net.onnx")


def test_files_of_folders_above_count_and_their_paths_are_relative_to_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        'calibration = "data/c.npz"\nevaluation = "mine:held_out"\nout = "build/sparse"\n'
        'baseline = "~/report.json"\ntiming-cache = "tactics"\n[bench]\ninputs = "x.npz"\n'
    )
    write(tmp_path, own=own)
    here = run("net.onnx")
    assert (here["calibration"], here["out"]) == ("data/c.npz", Path("build/sparse"))
    assert here["settings"].baseline == str(Path.home() / "report.json")
    below = tmp_path / "models" / "small"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    (tmp_path / "prox24.toml").write_text(own + "# read anew\n", "utf-8")
    found = run("net.onnx")
    assert found["calibration"] == str(tmp_path / "data" / "c.npz")
    assert found["out"] == tmp_path / "build" / "sparse"
    assert found["evaluation"] == "mine:held_out"
    settings = found["settings"]
    assert (settings.baseline, settings.timing_cache) == (str(Path.home() / "report.json"), str(tmp_path / "tactics"))
    assert run("bench", "a.onnx", "b.onnx")["inputs"] == str(tmp_path / "x.npz")
    assert run("net.onnx", "--calibration", "~/c.npz")["calibration"] == "~/c.npz"  # the shell's, not ours


def test_the_nearest_file_counts_and_no_other(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, own="seed = 1\nmin-snr = 9\n")
    write(tmp_path / "near", own="seed = 2\n")
    monkeypatch.chdir(tmp_path / "near")
    assert run("net.onnx")["settings"] == Settings(seed=2)


def test_a_sub_command_has_a_table_of_its_own(run: Run, tmp_path: Path) -> None:
    write(tmp_path, own='seed = 3\n[inspect]\nformat = "json"\n')
    assert set(run("inspect", "net.onnx")) == {"model", "format"}
    assert run("net.onnx") == {"model": Path("net.onnx"), "settings": Settings(seed=3)}
    assert json.dumps(run("inspect", "net.onnx")["format"]) == '"json"'
