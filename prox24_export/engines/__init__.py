"""Engines that both models are run and timed with; each says whether it is available here, and why not."""
