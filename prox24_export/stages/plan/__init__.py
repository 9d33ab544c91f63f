"""What a run will take, before it and while it runs."""
