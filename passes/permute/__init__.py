"""Input channels in another order, so that 2:4 costs less: which channels may move, the search, and the copy."""
