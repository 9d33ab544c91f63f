"""The front end for ONNX files: onnx_ir says what is there, ONNX Runtime runs it, weights are written back."""
