"""`summary.md`: the report for a CI summary, under 60 kB."""

from prox24_export.report import budget_tables, content, deploy, engine_tables, outcome, permutation
from prox24_export.report.markdown_table import code_span, escape_text, fit, write_table
from prox24_export.report.tables import Table
from prox24_export.results.budget import BudgetReport
from prox24_export.results.permutation import PermutationReport
from prox24_export.results.report import Report

DEPLOY_BYTES = 8_000  # most bytes of the lines to deploy it
LAYERS, WARNINGS, REASONS, SPACES = (
    12_000,
    3_000,
    5_000,
    3_000,
)  # most bytes of their rows; with the other tables all stays under 60 kB


def render(report: Report) -> str:
    """Renders the report as GitHub-flavoured Markdown; rows beyond a table's budget in bytes are counted, not shown."""
    shared = content.tables(report)
    layers = sorted(report.sparse_layers, key=lambda layer: -(layer.relative_error or 0))
    pruned = [(layer.name, layer.op, *content.figures(layer), "; ".join(layer.notes)) for layer in layers]
    dense = [(layer.name, layer.op, layer.reason) for layer in report.layers if layer.state == "dense"]
    header = ("Layer", "Operator", "K × N", "Parameters", "Relative error", "Notes")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"**{escape_text(content.verdict(report), 400)}**",
        *fit(
            [f"\n> **Warning:** {escape_text(entry, 400)}" for entry in content.warnings(report)], WARNINGS, "warnings"
        ),
        *write_table(shared["gates"]),
        *write_table(shared["metrics"]),
        *write_table(shared["outputs"]),
        *_engine_lines(report, shared),
        *_budget_lines(report.budget, shared["budget"]),
        *_permutation_lines(report.permutation, shared["spaces"]),
        *write_table(shared["refinement"]),
        *write_table(Table(f"Sparse layers ({len(layers):,}), worst relative error first", header, pruned), LAYERS),
        *write_table(Table("Why layers stay dense", ("Reason", "Layers"), content.reasons(report))),
        *write_table(Table(f"Dense layers ({len(dense):,})", ("Layer", "Operator", "Reason"), dense), REASONS),
        *_deploy_lines(report),
        *write_table(shared["data"]),
        *write_table(shared["files"]),
        *([f"\nCalibration took {content.cost(report)}."] if content.cost(report) else []),
        *([f"\nComputed on {content.describe_device(report)}."] if content.describe_device(report) else []),
        "\n" + escape_text(f"{report.tool}, started {report.started}. Versions: {versions}.", 800),
    ]
    return "\n".join(lines) + "\n"


def _deploy_lines(report: Report) -> list[str]:
    """The lines that build, compare and serve the model, as far as they fit."""
    lines = []
    for title, language, text in deploy.list_steps(report):
        lines += [f"\n{escape_text(title, 200)}:\n", deploy.write_block(language, *text)]
    if not lines or sum(len(line.encode()) for line in lines) > DEPLOY_BYTES:
        return [f"\nThe lines to deploy it are in {outcome.DEPLOY}."] if lines else []
    return ["\n## Next steps", "\nIn the folder of the run:", *lines]


def _permutation_lines(found: PermutationReport | None, spaces: Table) -> list[str]:
    """What became of the order of input channels, and the channel spaces."""
    if found is None:
        return []
    said = permutation.summarise(found)
    return [f"\n{escape_text(said[0].upper() + said[1:], 400)}.", *write_table(spaces, SPACES)]


def _budget_lines(budget: BudgetReport | None, curve: Table) -> list[str]:
    """Verdict, layers left dense, and the curve, in at most 2,000 bytes whatever the names hold."""
    if budget is None:
        return []
    said = budget_tables.verdict(budget)
    names = () if budget.verdict == "only dense" else budget.dense
    listed = fit([f"- {code_span(name)}" for name in names], 400, "layers")
    return [
        "\n## Accuracy budget\n",
        f"{escape_text(said[0].upper() + said[1:], 200)}.",
        *(["\nLeft dense to keep the budget:\n", *listed] if listed else []),
        *write_table(curve, 700, 60)[2:],  # under the heading above
    ]


def _engine_lines(report: Report, shared: dict[str, Table]) -> list[str]:
    """The latency or why there is none, the states of layers, and the estimate."""
    said, bound = engine_tables.speedup_sentence(report), engine_tables.estimate_sentence(report.estimate)
    return [
        *([f"\n{escape_text(said[0].upper() + said[1:], 400)}."] if said else []),
        *([f"\n*Estimate*, not a measurement: {escape_text(bound, 400)}"] if bound else []),
        *write_table(shared["latency"], 3_500, 300),
        *write_table(shared["states"]),
        *write_table(shared["missing"], REASONS, 300),
        *write_table(shared["disagreements"]),
        *write_table(shared["precision"]),
        *write_table(shared["sizes"]),
        *write_table(shared["scales"]),
        *write_table(shared["kept"]),
        *write_table(shared["float_outputs"]),
        *write_table(shared["estimate"]),
    ]
