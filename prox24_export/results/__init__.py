"""What a run found, as data: the report, the engines, the budget, the plan; and reading it again."""
