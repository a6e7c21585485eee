"""`make bench`: the engine beside eager PyTorch, torch.compile and JAX, measured side by side in one run."""
