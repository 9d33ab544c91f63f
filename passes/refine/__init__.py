"""Refinement: tunes the surviving weights of all layers together against the dense model. The masks stay fixed."""
