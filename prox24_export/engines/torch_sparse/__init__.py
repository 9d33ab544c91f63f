"""torch.sparse on a CUDA GPU: built, run and timed."""
