"""TensorRT engines, and how they are run and timed."""
