"""What CONTRIBUTING.md, the workflow and the hooks name is there, and the versions that stand twice are the same."""

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = dict(
    line.lower().replace("_", "-").split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)


def sessions() -> set[str]:
    """The functions of noxfile.py that nox runs; read, not imported: nox is no dependency of the tests."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and "nox.session" in map(ast.unparse, node.decorator_list)
    }


def commands(text: str) -> list[list[str]]:
    """The lines of its shell blocks, `&&` apart, as arguments."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [part for block in blocks for line in block.splitlines() for part in line.split("&&")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def sessions_of(words: list[str]) -> set[str]:
    """The sessions that a call of nox asks for."""
    asked = words[words.index("-s") + 1 :] if "-s" in words else []
    return set(asked[: asked.index("--")] if "--" in asked else asked)


def test_every_session_that_is_named_exists() -> None:
    in_guide = set().union(*(sessions_of(words) for words in commands(GUIDE) if words[0] == "nox"))
    in_ci = set().union(*(set(names.split()) for names in re.findall(r"nox -s ([a-z ]+)", CI)))
    in_text = set(re.findall(r"`nox -s (\w+)", GUIDE))
    assert in_ci == {"lint", "types", "docs", "wheel", "acceptance", "fuzz"}
    assert in_guide
    assert in_guide | in_ci | in_text <= sessions()


def keys_of(file: str, name: str) -> set[str]:
    """The keys of a table that a benchmark makes at its top; read, not imported."""
    tree = ast.parse((ROOT / "benchmarks" / file).read_text(encoding="utf-8"))
    made = [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    (table,) = [node.value for node in made if name in {ast.unparse(part) for part in assigned(node)}]
    assert isinstance(table, ast.Dict)
    return {str(ast.literal_eval(key)) for key in table.keys if key is not None}


def assigned(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def test_ci_runs_every_part_of_the_acceptance_once() -> None:
    named = [name for line in re.findall(r"acceptance -- --quick --parts (.+)", CI) for name in shlex.split(line)]
    assert len(named) == len(set(named))
    assert set(named) == keys_of("models.py", "MODELS") | keys_of("acceptance.py", "OTHERS")


def test_every_command_of_the_guide_is_one_that_is_known() -> None:
    assert {words[0] for words in commands(GUIDE)} <= {
        *("python3", ".", "pip", "pre-commit", "nox", "bash", "pytest", "export"),
    }


def test_every_extra_that_is_named_exists() -> None:
    named = {extra for extras in re.findall(r"-e '\.\[(.*?)\]'", GUIDE + CI) for extra in extras.split(",")}
    assert named
    assert named <= PROJECT["project"]["optional-dependencies"].keys()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"[`\](](\.?[\w.-]+(?:/[\w.-]+)*(?:/|\.\w+))[`)]", GUIDE)) | {".ci/run", "LICENSE"})
)
def test_every_path_of_the_guide_is_there(path: str) -> None:
    assert (ROOT / path).exists(), f"CONTRIBUTING.md names {path}, which is not there"


def names_in(words: list[str]) -> list[str]:
    """The tests that a call of pytest names."""
    return [word for word in words[1:] if word.startswith("tests/")]


@pytest.mark.parametrize(
    "name", [name for words in commands(GUIDE) if words[0] == "pytest" for name in names_in(words)]
)
def test_every_test_of_the_guide_is_there(name: str) -> None:
    path, _, test = name.partition("::")
    assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("_Match", "passes/front_onnx/linear_operators.py"),
        ("Refusal", "passes/front_onnx/constants.py"),
        ("_recognise_matmul", "passes/front_onnx/linear_operators.py"),
        ("_recognise_gemm", "passes/front_onnx/linear_operators.py"),
        ("_recognise_conv", "passes/front_onnx/linear_operators.py"),
        ("_recognise", "passes/front_onnx/linear_operators.py"),
        ("_is_linear_like", "passes/front_onnx/linear_operators.py"),
        ("_find_dimensions", "passes/front_onnx/linear_operators.py"),
        ("Layout", "passes/graph/layout.py"),
        ("Rows", "passes/graph/activations.py"),
        ("Patches", "passes/graph/activations.py"),
        ("Reason", "passes/graph/protocol.py"),
        ("TracedGraph", "passes/graph/protocol.py"),
        ("RECOGNISED", "tests/passes/test_find_linears.py"),
        ("FOREIGN", "tests/passes/test_verify_pattern.py"),
        ("Unsupported", "passes/onnx_to_fx/table.py"),
        ("literals", "passes/onnx_to_fx/table.py"),
        ("fixed", "passes/onnx_to_fx/table.py"),
        ("only", "passes/onnx_to_fx/table.py"),
        ("GRADIENTS", "tests/passes/onnx_to_fx/test_operators.py"),
        ("CASES", "tests/passes/onnx_to_fx/test_opsets.py"),
        ("Settings", "prox24_export/settings.py"),
        ("EngineReport", "prox24_export/results/engine.py"),
        ("EngineName", "prox24_export/results/engine.py"),
    ],
)
def test_every_name_of_the_guide_is_where_it_says(name: str, where: str) -> None:
    assert f"`{name}`" in GUIDE
    assert re.search(rf"^\s*(def |class )?{name}\b *[:=(]", (ROOT / where).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_engine_to_read_first_has_what_the_guide_asks_for() -> None:
    folder = ROOT / "prox24_export" / "engines" / "torch_sparse"
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert {"`availability`", "`bench`"} <= set(re.findall(r"`\w+`", GUIDE))
    assert "\ndef availability(" in text
    assert "\ndef bench(" in text


def test_the_workflow_calls_the_one_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert all(re.search(r"@v\d+\.\d+\.\d+$", step["uses"]) for step in job["steps"] if "uses" in step)
    supported = {
        name.rpartition(" ")[2] for name in PROJECT["project"]["classifiers"] if re.search(r"Python :: 3\.\d+$", name)
    }
    assert set(job["strategy"]["matrix"]["python"]) == supported


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_an_issue_form_has_a_name_and_fields_with_labels(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    assert all(field["attributes"]["label"] for field in form["body"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])


def test_hooks_lint_with_the_version_that_ci_lints_with() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    revisions = {repository["repo"].rpartition("/")[2]: repository.get("rev") for repository in config["repos"]}
    assert revisions["ruff-pre-commit"] == f"v{CONSTRAINTS['ruff']}"


@pytest.mark.parametrize("extra", ["test", "docs", "dev"])
def test_every_tool_is_pinned(extra: str) -> None:
    wanted = PROJECT["project"]["optional-dependencies"][extra]
    names = [re.split(r"[\[<>=;]", line)[0].lower() for line in wanted]
    assert [name for name in names if name not in CONSTRAINTS] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = PROJECT["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_no_classifier_promises_a_system_without_the_modules_that_are_used() -> None:
    systems = {name for name in PROJECT["project"]["classifiers"] if name.startswith("Operating System")}
    assert systems == {"Operating System :: MacOS", "Operating System :: POSIX :: Linux"}  # `resource` is Unix only
