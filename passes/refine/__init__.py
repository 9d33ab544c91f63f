"""Refinement: the surviving weights of all layers tuned together against the dense model, masks fixed."""
