"""Methods: how meta-gradients are got."""
