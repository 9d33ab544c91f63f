"""`report.html`: one self-contained page, which needs no network and runs no script but its own."""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup, escape

from prox24_export.report import (
    content,
    deploy,
    html_answers,
    html_budget,
    html_charts,
    html_mask,
    html_tables,
    permutation,
)
from prox24_export.report.html_mask import Mask
from prox24_export.report.tables import number
from prox24_export.results.report import Report


@cache
def _make_environment() -> jinja2.Environment:
    """Makes the environment of the templates; it is kept, because it keeps them compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prox24_export.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": keep_together, "command": keep_dashes}
    return environment


def render(report: Report, masks: Mapping[str, Mask] | None = None) -> str:
    """Renders the report as a page that loads nothing.

    Args:
        report: What the page shows.
        masks: The mask of each layer by node name: booleans [N, K], true where an entry is kept, or a thumbnail that
            `html_mask.read_masks` found in an earlier page.

    Raises:
        InputError: A mask is no matrix of booleans.
    """
    environment = _make_environment()
    style, script = (environment.get_template(f"{name}.html.j2").render() for name in ("style", "script"))
    points = report.engine.latency if report.engine else ()
    ratio = "Ratio of times, no speed-up" if report.engine and report.engine.not_measured else "Speed-up"
    steps, unknown = html_answers.steps(report)
    layers, products = html_tables.split_products(html_tables.layers(report))
    given = masks or {}
    return environment.get_template("report.html.j2").render(
        report=report,
        style=Markup(style),  # noqa: S704 (our own file, without any value in it)
        script=Markup(script),  # noqa: S704 (same)
        policy=policy(style, script),
        tables=content.tables(report),
        verdict=content.list_verdict(report),
        worst=content.worst_output(report),
        warnings=content.warnings(report),
        reasons=content.reasons(report),
        cost=content.cost(report),
        share=sum(layer.share for layer in report.sparse_layers),
        steps=steps,
        unknown=unknown,
        speed=html_answers.speed(report),
        gates=html_answers.gates(report),
        overall=html_answers.overall_verdict(report),
        errors=html_charts.errors(report.layers),
        refinement=html_charts.refinement(report.refinement),
        picture=permutation.draw(report.permutation),
        permutation=permutation.summarise(report.permutation) if report.permutation else "",
        shapes=html_charts.shapes(report.estimate),
        distributions=html_charts.distributions(points),
        curves=list(filter(None, (html_charts.medians(points), html_charts.speedups(points, ratio)))),
        budget=html_budget.budget_section(report.budget),
        layer_times=html_tables.layer_times(report.engine),
        layers=layers,
        products=products,
        worst_errors=html_charts.worst_errors(report.layers),
        steps_to_deploy=deploy.list_steps(report),
        no_server=deploy.NO_SERVER if deploy.is_directory(report) else "",
        masks=html_mask.pack_masks({layer.name: given[layer.name] for layer in report.layers if layer.name in given}),
        number=number,
        format_value=format_value,
    )


def keep_together(text: str) -> Markup:
    """Marks what no line may break in a sentence: an option's name, and a number with its unit."""
    tied = re.sub(r"(?<=\d) (?=[%×])", "\N{NO-BREAK SPACE}", str(escape(text)))
    return Markup(re.sub(r"--[a-z0-9-]+", r'<span class="whole">\g<0></span>', tied))  # noqa: S704 (escaped before)


def keep_dashes(text: str) -> Markup:
    """Marks the dashes of every option in a command, after which browsers break lines; what is copied stays."""
    return Markup(re.sub(r"--\w", r'<span class="whole">\g<0></span>', str(escape(text))))  # noqa: S704 (same)


def policy(style: str, script: str) -> str:
    """The content security policy: the page may use only its own style and script, which are named by their hashes."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def format_value(value: Any) -> str:
    """Formats a setting or fact of any type as people write it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {format_value(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(format_value, value)) or "none"
    return str(value)
