"""Kernels: who computes an agent's steps and replays, behind one interface."""

from l2o.kernels.select import available, backend_name, kernel_for, kernel_for_step

__all__ = ["available", "backend_name", "kernel_for", "kernel_for_step"]
