"""The fewest layers left dense that keep a limit."""
