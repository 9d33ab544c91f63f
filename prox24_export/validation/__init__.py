"""What the sparse model is worth: accuracy against the dense one, and gates on it."""
