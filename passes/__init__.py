"""The compiler passes, one idea per file, in walking order: graph → find_linears → calibrate → sparsify → rewrite → verify."""
