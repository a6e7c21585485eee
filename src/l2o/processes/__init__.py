"""Processes: what an agent drives."""
