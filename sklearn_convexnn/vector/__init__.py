"""Networks of several outputs that share one hidden layer."""
