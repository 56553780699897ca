"""Gradient transformations: what stands between a gradient and an update."""
