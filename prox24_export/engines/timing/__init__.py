"""The latency of two engines that take turns: the procedure, its statistics, and the state of the GPU."""
