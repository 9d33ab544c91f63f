"""Builds TensorRT engines, dense and sparse, from the finished ONNX files."""
