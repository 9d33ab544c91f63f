"""What a run found, as data: the report, the engines, the budget and the plan; and the reader of `report.json`."""
