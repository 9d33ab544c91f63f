"""A promised figure and its limit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One figure and its limit; a relation is `≤` or `≥`, and empty where the figure is only recorded."""

    model: str
    figure: str
    value: float
    relation: str = ""
    limit: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the limit."""
        return {"≥": self.value >= self.limit, "≤": self.value <= self.limit}.get(self.relation, True)


def table(checks: list[Check]) -> str:
    """The figures as Markdown."""
    lines = ["| of | figure | value | limit | |", "|---|---|---|---|---|"]
    for check in checks:
        verdict = ("pass" if check.passed else "**FAIL**") if check.relation else ""
        limit = f"{check.relation} {check.limit:g}" if check.relation else ""
        lines.append(f"| {check.model} | {check.figure} | {check.value:.4g} | {limit} | {verdict} |")
    return "\n".join(lines) + "\n"
