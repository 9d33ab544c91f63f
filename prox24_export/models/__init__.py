"""Kinds of models: which front end reads and writes them."""
