"""Calibration: layers in stages, two activation streams, Gram matrices."""
