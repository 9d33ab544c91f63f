"""TensorRT engines, dense and sparse, built from the finished files."""
