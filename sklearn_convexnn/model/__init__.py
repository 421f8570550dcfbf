"""Networks, problems, units and results."""
