"""Where samples come from: arrays, folders, text, functions of the user."""
