"""Optimizers: chains of transformations under the names that the field uses."""
