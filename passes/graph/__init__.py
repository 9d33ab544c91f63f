"""What every pass speaks of: linear layers, skipped nodes, layouts, and the protocol of a traced graph."""
