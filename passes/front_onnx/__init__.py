"""The front end for ONNX files: onnx_ir reads them, ONNX Runtime runs them, and solved weights are written back."""
