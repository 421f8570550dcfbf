"""Units of two-layer networks: single neurons."""
