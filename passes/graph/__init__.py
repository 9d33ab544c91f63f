"""What all passes share: linear layers, skipped nodes, layouts, and the protocol of a traced graph."""
