"""How each family of kernels is scheduled, one file per family."""
