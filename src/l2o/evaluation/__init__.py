"""Measuring optimizers: statistics over curves, tuned baselines, verdicts, figures and reports."""
