"""What the units of each architecture are."""
