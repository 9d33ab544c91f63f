"""TensorRT engines: run and timed."""
