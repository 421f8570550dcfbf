"""Two-layer convolutional networks as a family of units."""
