"""The graph as a program of our own kernels: laid out, fused, planned, and run."""
