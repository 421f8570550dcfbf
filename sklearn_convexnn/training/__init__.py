"""From a problem to a network and its bound."""
