"""One Report model and the writers that render it."""
