"""Latency of two engines in turns: procedure, statistics, state of the GPU."""
