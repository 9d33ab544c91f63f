"""Engines: build, run and time; each says whether it is available here, and why not."""
