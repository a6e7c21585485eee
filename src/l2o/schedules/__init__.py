"""Schedules: which choice is taken at each step of a training process."""
