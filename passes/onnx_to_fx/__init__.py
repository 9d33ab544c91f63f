"""Converts an ONNX graph to a differentiable torch.fx function, and checks it against ONNX Runtime."""
