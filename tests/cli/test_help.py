"""The help and the settings: every option is described, in its group, with what holds where it is left out."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import pytest
from cyclopts import App, Group
from cyclopts.argument import Argument

from prox24_export import cli
from prox24_export.settings import OUTPUT, BenchSettings, InspectSettings, Settings
from tests.command import command

COMMANDS = {"": cli.app, **{name: cli.app[name] for name in ("bench", "inspect", "report")}}
SHARED = {"": Settings, "bench": BenchSettings, "inspect": InspectSettings}
GROUPS = ["Data", "Pruning", "Refinement", "Gates", "Engines", "Output"]


def options_of(app: App) -> dict[str, Argument]:
    """What a command defines, by name of the option."""
    arguments = app.assemble_argument_collection(parse_docstring=True)
    return {argument.name: argument for argument in arguments if argument.name.startswith("--")}


def group_of(option: Argument) -> str:
    groups = option.parameter.group
    assert isinstance(groups, tuple)
    (group,) = groups
    assert isinstance(group, Group)
    return group.name


def sentence_of(option: Argument) -> str:
    """Its help as it is printed: Markdown's marks and line breaks gone."""
    return " ".join((option.parameter.help or "").replace("`", "").split())


def default_of(option: Argument) -> str:
    """What the help shows behind the sentence; empty where the sentence must say it."""
    shown = option.show_default
    return str((shown(option.field_info.default) if callable(shown) else shown) or "")


def lacks(option: Argument) -> list[str]:
    """What the description of an option has to have and has not."""
    sentence, wrong = sentence_of(option), []
    if not re.fullmatch(r"[A-Z].{20,}\.", sentence):
        wrong.append("full sentences")
    if not (default_of(option) or "By default, " in sentence):
        wrong.append("its default")
    if group_of(option) not in GROUPS:
        wrong.append("a group")
    return wrong


def panels_of(name: str, folder: Path) -> dict[str, str]:
    """The printed help: the text of each panel by its title, without frame and line breaks; the rest under ''."""
    outcome = command(*name.split(), "--help", folder=folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    panels = re.compile(r"╭─ (\w+) ─+╮\n(.*?)╰─+╯\n", re.DOTALL)
    found = {title: " ".join(re.sub("│", " ", text).split()) for title, text in panels.findall(outcome.stdout)}
    return found | {"": " ".join(panels.sub("", outcome.stdout).split())}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("help")
    return {name: panels_of(name, folder) for name in COMMANDS}


EVERY_OPTION = [(name, option) for name, app in COMMANDS.items() for option in options_of(app)]


@pytest.mark.parametrize(("name", "option"), EVERY_OPTION)
def test_an_option_is_described_and_its_default_said(name: str, option: str) -> None:
    assert lacks(options_of(COMMANDS[name])[option]) == []


@pytest.mark.parametrize(("name", "option"), EVERY_OPTION)
def test_help_shows_the_option_in_its_group(name: str, option: str, printed: dict[str, dict[str, str]]) -> None:
    defined = options_of(COMMANDS[name])[option]
    shown = printed[name][group_of(defined)]
    after = shown.partition(f"{' '.join(defined.names)} ")[2]
    default = f" [default: {default_of(defined)}]" if default_of(defined) else ""
    choices = f" [choices: {', '.join(defined.get_choices() or ())}]" if defined.get_choices() else ""
    assert re.match(rf"([A-Z.]+ )?{re.escape(sentence_of(defined) + choices + default)}( --|$)", after), after


def test_the_check_of_descriptions_can_fail() -> None:
    app = App(default_parameter=cli.PLAIN)

    @app.default
    def run(*, depth: int | None = None, wide: Annotated[bool, OUTPUT] = False, tall: int = 3) -> None:
        """Run.

        Args:
            depth: Of the search.
            wide: Whether the picture is a wide one.
            tall: How tall the picture is, in lines of text.
        """

    assert {name: lacks(option) for name, option in options_of(app).items()} == {
        "--depth": ["full sentences", "its default", "a group"],
        "--wide": ["its default"],
        "--tall": ["a group"],
    }


@pytest.mark.parametrize(("name", "settings"), SHARED.items())
def test_every_field_of_the_settings_is_an_option(name: str, settings: type[Settings]) -> None:
    names = {f"--{option.name.replace('_', '-')}" for option in fields(settings)}
    assert names <= options_of(COMMANDS[name]).keys()


def test_no_option_is_shown_that_is_not_defined(printed: dict[str, dict[str, str]]) -> None:
    for name, app in COMMANDS.items():
        text = " ".join(text for title, text in printed[name].items() if title in GROUPS)
        shown = set(re.findall(r"--[a-z-]+\b", text))
        assert shown <= options_of(app).keys() | options_of(cli.app).keys() | {"--batch"}


def test_the_groups_stand_in_order_and_the_exit_codes_below(printed: dict[str, dict[str, str]]) -> None:
    assert list(printed[""]) == ["Commands", "Arguments", *GROUPS, ""]
    assert re.findall(r"• (\d+): (?:The|An) ", printed[""][""]) == ["0", "1", "2", "3", "4", "130"]


def test_the_examples_are_commands(printed: dict[str, dict[str, str]]) -> None:
    examples = re.findall(r"^  prox24-export (.*)$", cli.USAGE, re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        assert example in printed[""][""]
        _, bound, rest = cli.app.parse_args(shlex.split(example), exit_on_error=False, print_error=False)
        assert len(bound.arguments) > 1
        assert rest == {}
