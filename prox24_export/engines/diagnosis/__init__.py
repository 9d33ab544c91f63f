"""Why a layer has, or has not, a sparse tactic: the builder's log and the inspector, read."""
