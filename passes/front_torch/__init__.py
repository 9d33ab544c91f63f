"""The front end for torch programs: torch.export traces them, torch runs them, ONNX files are written and checked."""
