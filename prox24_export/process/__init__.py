"""This process: the signals that end it, what its libraries may say and fetch, and how text of strangers is shown."""
