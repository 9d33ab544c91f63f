"""Checks of a benchmark that is run a model at a time: written beside those of other models."""

import json
from dataclasses import asdict

from checks import Check, table
from results_files import RESULTS, write_results


def write_joined(name: str, checks: list[Check]) -> None:
    """Writes checks as the results of this name, with those that stand there of models that have none among them."""
    file = RESULTS / f"{name}.json"
    known = [Check(**row) for row in json.loads(file.read_text("utf-8"))["rows"]] if file.is_file() else []
    models = {check.model for check in checks}
    joined = sorted([check for check in known if check.model not in models] + checks, key=lambda check: check.model)
    write_results(name, [asdict(check) for check in joined], table(joined))
