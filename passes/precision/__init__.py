"""Lower precision: converts float32 ONNX files to float16 or bfloat16 for strongly typed engines, and verifies them."""
