"""Searches for the learning rate: many runs in one compiled program."""
