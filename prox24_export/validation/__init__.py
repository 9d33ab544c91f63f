"""What the sparse model is worth: its accuracy against the dense model, and the gates on it."""
