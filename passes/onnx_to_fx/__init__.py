"""An ONNX graph as a differentiable torch.fx function, checked against ONNX Runtime."""
