"""Networks of parallel sub-networks with two and more hidden layers."""
