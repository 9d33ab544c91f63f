"""ONNX operators as differentiable torch functions, one file for each kind."""
