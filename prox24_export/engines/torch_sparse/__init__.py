"""The engine that multiplies by `torch.sparse` on a CUDA GPU, and how it is built, run and timed."""
