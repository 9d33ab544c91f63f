"""Quantise: writes float32 ONNX files as INT8 files with QuantizeLinear and DequantizeLinear, and verifies them."""
