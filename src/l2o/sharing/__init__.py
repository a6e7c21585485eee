"""Weights made ready for others: a repository's folder with its model card."""
