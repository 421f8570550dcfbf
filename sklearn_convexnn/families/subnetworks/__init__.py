"""Units of deeper networks: parallel sub-networks."""
