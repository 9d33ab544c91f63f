"""Why a layer has a sparse tactic or none, as the builder's log and the inspector tell it."""
