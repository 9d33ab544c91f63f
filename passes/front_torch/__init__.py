"""The front end for torch programs: torch.export traces, torch runs, ONNX files are written and checked."""
