"""The compiler passes, one idea per file, in walking order: find_linears → calibrate → sparsify → rewrite → verify."""
