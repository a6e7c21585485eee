"""Guided policy search over coordinate groups."""
