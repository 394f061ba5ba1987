"""Measurements against peers installed on the same machine."""
