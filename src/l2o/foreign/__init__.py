"""Weights that other libraries published, read from safe formats."""
