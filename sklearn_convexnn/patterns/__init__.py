"""Activation patterns: arrangements, gates, blocks and their numbers."""
