"""Learned optimizers, hand-designed rules, and their drop-in for ordinary training loops."""
