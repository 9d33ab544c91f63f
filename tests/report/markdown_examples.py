"""What tests of the summary's size share: its limit, and a budget of the longest names and largest counts."""

from dataclasses import replace

from prox24_export.results.budget import BudgetReport
from tests.report.example import budget

MOST_BYTES = 60_000


def huge(long: str, count: int) -> BudgetReport:
    """Every name and title long, every count of twenty digits."""
    names = [f"{long}{i}" for i in range(count)]
    found = budget(names)
    point = replace(found.curve[1], order=long, metric=long, layers=10**20, parameters=10**20, error=1e99)
    return replace(found, samples=10**20, dense=tuple(names), parameters=10**20, curve=(point,) * count)
