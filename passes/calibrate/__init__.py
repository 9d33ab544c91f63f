"""Calibration: runs layers in stages, in two activation streams, and sums up the Gram matrices of their inputs."""
